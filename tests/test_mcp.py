"""POST /mcp: a row for each rule of the Model Context Protocol, in both eras, and what the three tools answer."""

import base64
import json
import os
import pathlib
import platform
import re
import shutil
import socket
import threading

import pytest
from conftest import PROGRAM, ROOT, wait_for

OLD = ("2025-03-26", "2025-06-18", "2025-11-25")  # `initialize` chooses one of these
NEW = "2026-07-28"  # each request names it
ERAS = OLD + (NEW,)
KEY = "io.modelcontextprotocol/"
META = {KEY + "protocolVersion": NEW, KEY + "clientCapabilities": {}, KEY + "clientInfo": {"name": "t", "version": "1"}}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
CHARACTERS = 100000  # ChatGPT takes fewer in an answer
INLINE = 4 << 20  # bytes of a file that comes within an answer


def post(daemon, body, headers=None, path="/mcp"):
    """A POST of bytes, or of a value as JSON, with the headers that clients send."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    return daemon.request("POST", path, data, dict(sent, **(headers or {})))


def message(method, params=None, **more):
    params = {} if params is None else {"params": params}
    return dict({"jsonrpc": "2.0", "id": 1, "method": method}, **dict(params, **more))


def new_headers(method, name=None, version=NEW):
    headers = {"MCP-Protocol-Version": version, "Mcp-Method": method}
    return headers if name is None else dict(headers, **{"Mcp-Name": name})


def ask(daemon, method, params=None, era=OLD[-1], path="/mcp"):
    """The answer to a well-formed request of an era."""
    if era != NEW:
        return post(daemon, message(method, params), {"MCP-Protocol-Version": era}, path)
    params = dict(params or {}, _meta=META)
    return post(daemon, message(method, params), new_headers(method, params.get("name")), path)


def value(answer):
    assert answer.headers["Content-Type"] == "application/json", answer
    return json.loads(answer.body.decode())


def result(answer):
    found = value(answer)
    assert (answer.status, found["jsonrpc"], found["id"]) == (200, "2.0", 1), found
    assert "error" not in found, found
    return found["result"]


def error(answer):
    """(HTTP status, code) of an error, whose form is checked."""
    found = value(answer)
    assert found["jsonrpc"] == "2.0" and "result" not in found
    assert found["error"]["message"] and isinstance(found["error"]["message"], str)
    return answer.status, found["error"]["code"]


def call(daemon, name, arguments, era=OLD[-1], path="/mcp"):
    return result(ask(daemon, "tools/call", {"name": name, "arguments": arguments}, era, path))


def text(found):
    """The one text block of a result."""
    (block,) = found["content"]
    assert sorted(block) == ["text", "type"] and block["type"] == "text", block
    return block["text"]


class Background(threading.Thread):
    """A call that waits for the operator while the test types."""

    def __init__(self, function, *arguments):
        super().__init__(daemon=True)
        self.function, self.arguments, self.found = function, arguments, None
        self.start()

    def run(self):
        self.found = self.function(*self.arguments)

    def answer(self):
        self.join(30)
        assert not self.is_alive() and self.found is not None, "no answer"
        return self.found


# What a client begins with


UNKNOWN = ("2024-11-05", "2099-01-01", NEW, None)


@pytest.mark.parametrize("asked, chosen", list(zip(OLD, OLD)) + [(version, OLD[-1]) for version in UNKNOWN])
def test_initialize_echoes_a_version_it_speaks_and_else_names_its_newest(nosafe, asked, chosen):
    params = {"capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    found = result(post(nosafe, message("initialize", dict(params, **({"protocolVersion": asked} if asked else {})))))
    assert found["protocolVersion"] == chosen
    assert found["capabilities"] == {"tools": {}}
    assert found["serverInfo"]["name"] == "MyCodeInterpreter" and found["serverInfo"]["version"]
    assert "resultType" not in found


@pytest.mark.parametrize("mode", [[], ["-nosafe"]], ids=["safe", "nosafe"])
def test_the_instructions_name_the_machine_and_the_person_who_is_asked(start, mode):
    daemon = start("noauth", *mode)
    for answer in (ask(daemon, "initialize", {"protocolVersion": OLD[0]}), ask(daemon, "server/discover", era=NEW)):
        said = result(answer)["instructions"]
        assert socket.gethostname() in said and str(daemon.directory) in said
        assert platform.system().lower() in said.lower()
        assert ("person" in said and "deny" in said) == (not mode)


def test_server_discover_tells_what_initialize_does(nosafe):
    found = result(ask(nosafe, "server/discover", era=NEW))
    assert sorted(found["supportedVersions"]) == sorted(ERAS)
    assert found["capabilities"] == {"tools": {}}
    assert found["_meta"][KEY + "serverInfo"]["name"] == "MyCodeInterpreter"
    assert found["resultType"] == "complete" and found["ttlMs"] >= 0 and found["cacheScope"] in ("public", "private")


@pytest.mark.parametrize("era", OLD)
def test_ping_answers_an_empty_result(nosafe, era):
    assert result(ask(nosafe, "ping", era=era)) == {}


@pytest.mark.parametrize("era", OLD)
def test_the_results_of_the_old_era_have_no_type(nosafe, era):
    listed, called = result(ask(nosafe, "tools/list", era=era)), call(nosafe, "execcmd", {"cmd": "true"}, era)
    assert "resultType" not in listed and "resultType" not in called


def test_the_results_of_the_new_era_say_that_they_are_complete(nosafe):
    listed, called = result(ask(nosafe, "tools/list", era=NEW)), call(nosafe, "execcmd", {"cmd": "true"}, NEW)
    assert listed["resultType"] == called["resultType"] == "complete"
    assert isinstance(listed["ttlMs"], int) and listed["ttlMs"] >= 0 and listed["cacheScope"] in ("public", "private")
    assert "ttlMs" not in called and "cacheScope" not in called
    failed = call(nosafe, "get-file", {"filename": "missing"}, NEW)
    assert failed["isError"] is True and failed["resultType"] == "complete"


@pytest.mark.parametrize("identity", [0, 7, -1, "", "a", "\u20ac", "x" * 500])
def test_the_answer_has_the_id_of_the_request(nosafe, identity):
    found = value(post(nosafe, message("ping", id=identity)))
    assert found["id"] == identity and type(found["id"]) is type(identity)
    assert value(post(nosafe, message("nonsense", id=identity)))["id"] == identity


def test_a_request_without_the_version_header_is_of_2025_03_26(nosafe):
    assert result(post(nosafe, message("ping"))) == {}
    assert call(nosafe, "execcmd", {"cmd": "echo hi"})["isError"] is False
    assert len(value(post(nosafe, [message("ping")]))) == 1


def test_a_member_that_nobody_knows_is_ignored(nosafe):
    params = {"name": "execcmd", "arguments": {"cmd": "echo hi"}, "_meta": {"progressToken": 1}, "future": {}}
    assert text(result(post(nosafe, message("tools/call", params, future=1)))) == "hi\n"


# What is not answered


RUN = {"name": "execcmd", "arguments": {"cmd": "echo > ran"}}
NOTIFICATIONS = {
    "initialized": {"jsonrpc": "2.0", "method": "notifications/initialized"},
    "cancelled": {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
    "unknown": {"jsonrpc": "2.0", "method": "notifications/of/the/future"},
    "a tool": {"jsonrpc": "2.0", "method": "tools/call", "params": RUN},
    "a result": {"jsonrpc": "2.0", "id": 1, "result": {}},
    "an error": {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "no"}},
}


@pytest.mark.parametrize("era", OLD)
@pytest.mark.parametrize("kind", NOTIFICATIONS)
def test_notifications_and_responses_are_accepted_without_a_body(nosafe, era, kind):
    answer = post(nosafe, NOTIFICATIONS[kind], {"MCP-Protocol-Version": era})
    assert (answer.status, answer.body) == (202, b"")
    assert not (nosafe.directory / "ran").exists(), "a call without an id has been carried out"


def test_a_notification_of_the_new_era_is_accepted_too(nosafe):
    sent = {"jsonrpc": "2.0", "method": "notifications/of/the/future", "params": {"_meta": META}}
    answer = post(nosafe, sent, new_headers(sent["method"]))
    assert (answer.status, answer.body) == (202, b"")


# What is refused, and with which code


MALFORMED = [
    (b"", -32700),
    (b"{", -32700),
    (b"\xff", -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":"p\xffng"}', -32700),
    (b"[" * 20000, -32700),
    (b"cmd=echo+hi", -32700),
    (b"null", -32600),
    (b"1", -32600),
    (b'"ping"', -32600),
    (b"[]", -32600),
    (b"{}", -32600),
    (b'{"id":1,"method":"ping"}', -32600),
    (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
    (b'{"jsonrpc":2.0,"id":1,"method":"ping"}', -32600),
    (b'{"jsonrpc":"2.0","id":1}', -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":null}', -32600),
    (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
    (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
    (b'{"jsonrpc":"2.0","id":[1],"method":"ping"}', -32600),
    (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":"x"}', -32602),
]


@pytest.mark.parametrize("body, code", MALFORMED, ids=[repr(body[:44]) for body, _ in MALFORMED])
def test_what_is_no_message_gets_the_code_for_it(nosafe, body, code):
    assert error(post(nosafe, body)) == (400, code)


@pytest.mark.parametrize("identity", [b'"\\ud800"', b"1e999", b"NaN"])
@pytest.mark.parametrize("method", [b"ping", b"nonsense"])
def test_an_id_that_can_not_be_sent_back_is_no_bug(start, identity, method):
    """A lone surrogate has no UTF-8, infinity no JSON: refused or echoed as escapes, but in an answer of JSON."""
    answer = post(start("noauth"), b'{"jsonrpc":"2.0","id":%s,"method":"%s"}' % (identity, method))
    assert answer.status in (200, 400)
    json.loads(answer.body.decode(), parse_constant=lambda constant: pytest.fail("%s is no JSON" % constant))


METHODS = "nonsense resources/list prompts/list logging/setLevel completion/complete tools/listen Ping".split() + [""]


@pytest.mark.parametrize("method", METHODS + ["server/discover"])
@pytest.mark.parametrize("era", OLD)
def test_an_unknown_method_of_the_old_era_is_minus_32601(nosafe, era, method):
    assert error(ask(nosafe, method, era=era)) == (200, -32601)


@pytest.mark.parametrize("method", METHODS[:-1] + ["initialize", "ping"])
def test_an_unknown_method_of_the_new_era_is_404_and_minus_32601(nosafe, method):
    assert error(ask(nosafe, method, era=NEW)) == (404, -32601)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("name", ["nonsense", "", "Execcmd", "execcmd ", "send_file", "\u20ac"])
def test_an_unknown_tool_is_minus_32602(nosafe, era, name):
    encoded = "=?base64?%s?=" % base64.b64encode(name.encode()).decode()
    headers = new_headers("tools/call", encoded) if era == NEW else {"MCP-Protocol-Version": era}
    params = dict({"name": name, "arguments": {}}, **({"_meta": META} if era == NEW else {}))
    assert error(post(nosafe, message("tools/call", params), headers))[1] == -32602


def check_params(daemon, params, era):
    assert error(ask(daemon, "tools/call", params, era))[1] == -32602


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("arguments", [[], ["cmd"], "echo hi", 5, True, [["cmd", "echo hi"]]], ids=str)
def test_arguments_that_are_no_object_are_minus_32602(nosafe, era, arguments):
    check_params(nosafe, {"name": "execcmd", "arguments": arguments}, era)


@pytest.mark.parametrize("params", [None, {}, {"name": 5}, {"name": None}, {"name": ["execcmd"]}], ids=str)
def test_a_call_of_no_tool_is_minus_32602(nosafe, params):
    check_params(nosafe, params, OLD[-1])


WRONG_ARGUMENTS = [
    ("execcmd", {}),
    ("execcmd", {"cmd": ""}),
    ("execcmd", {"cmd": 5}),
    ("execcmd", {"cmd": None}),
    ("execcmd", {"cmd": ["echo", "hi"]}),
    ("execcmd", {"cmd": "echo \0"}),
    ("execcmd", {"cmd": "echo \ud800"}),
    ("execcmd", {"cmd": "echo hi", "stdin": 5}),
    ("execcmd", {"cmd": "echo hi", "wait": "soon"}),
    ("execcmd", {"cmd": "echo hi", "wait": -1}),
    ("execcmd", {"cmd": "echo hi", "wait": True}),
    ("execcmd", {"cmd": "echo hi", "limit": []}),
    ("execcmd", {"cmd": "echo hi", "command": "echo ho"}),
    ("get-file", {}),
    ("get-file", {"filename": ""}),
    ("get-file", {"filename": 5}),
    ("get-file", {"filename": "a\0b"}),
    ("get-file", {"filename": "a", "openaiFileResponse": "true"}),
    ("get-file", {"path": "a"}),
    ("send-file", {}),
    ("send-file", {"filename": "a"}),
    ("send-file", {"content": "a"}),
    ("send-file", {"filename": 5, "content": "a"}),
    ("send-file", {"filename": "a", "content": 5}),
    ("send-file", {"filename": "a", "content": None}),
    ("send-file", {"filename": "a", "content_base64": "not base64!"}),
    ("send-file", {"filename": "a", "content_base64": "YQ"}),
    ("send-file", {"filename": "a", "content_base64": 5}),
    ("send-file", {"filename": "a", "content": "\ud800"}),
    ("send-file", {"filename": "a", "content": "a", "mode": "0755"}),
    ("send-file", {"file": 5}),
    ("send-file", {"file": "a"}),
    ("send-file", {"file": {}}),
    ("send-file", {"file": {"file_id": "1"}}),
    ("send-file", {"file": {"file_id": "1", "download_url": 5}}),
    ("send-file", {"file": {"file_id": 1, "download_url": "https://localhost/"}}),
]


@pytest.mark.parametrize("name, arguments", WRONG_ARGUMENTS, ids=["%s %r" % row for row in WRONG_ARGUMENTS])
def test_wrong_arguments_are_a_result_that_says_what_is_wrong(nosafe, name, arguments):
    """The model reads a result and mends it; a protocol error it may never see."""
    before = sorted(os.listdir(str(nosafe.directory)))
    found = call(nosafe, name, arguments)
    assert found["isError"] is True and len(text(found)) > 10
    assert sorted(os.listdir(str(nosafe.directory))) == before


def test_a_wrong_argument_is_told_to_neither_the_operator_nor_the_shell(start):
    daemon = start("noauth", tty=True)
    for name, arguments in (("execcmd", {"cmd": ""}), ("get-file", {}), ("send-file", {"filename": "a"})):
        assert call(daemon, name, arguments)["isError"] is True
    assert "asked for by" not in daemon.errors()


def test_a_batch_is_accepted_at_2025_03_26(nosafe):
    batch = [message("ping", id=1), NOTIFICATIONS["initialized"], message("nonsense", id="b"), 5]
    for headers in ({}, {"MCP-Protocol-Version": "2025-03-26"}):
        answer = post(nosafe, batch, headers)
        assert answer.status == 200
        found = value(answer)
        assert [one.get("id") for one in found] == [1, "b", None]
        assert found[0]["result"] == {} and [one["error"]["code"] for one in found[1:]] == [-32601, -32600]


@pytest.mark.parametrize("kind", ["initialized", "a result"])
def test_a_batch_without_a_request_is_202_without_a_body(nosafe, kind):
    answer = post(nosafe, [NOTIFICATIONS[kind]] * 2)
    assert (answer.status, answer.body) == (202, b"")


@pytest.mark.parametrize("era", OLD[1:] + (NEW,))
def test_a_batch_is_refused_later(nosafe, era):
    assert error(post(nosafe, [message("ping")], {"MCP-Protocol-Version": era})) == (400, -32600)
    assert post(nosafe, [NOTIFICATIONS["a tool"]], {"MCP-Protocol-Version": era}).status == 400
    assert not (nosafe.directory / "ran").exists()


@pytest.mark.parametrize("version", ["2024-11-05", "2099-01-01", "nonsense", "2025-06-18, 2025-06-18"])
def test_an_unsupported_version_is_400_and_names_those_supported(nosafe, version):
    answer = ask(nosafe, "tools/list", era=version)
    assert error(answer) == (400, -32022)
    data = value(answer)["error"]["data"]
    assert data["requested"] == version and sorted(data["supported"]) == sorted(ERAS)


def test_an_unsupported_version_of_the_new_era_is_400_and_names_those_supported(nosafe):
    meta = dict(META, **{KEY + "protocolVersion": "2099-01-01"})
    answer = post(nosafe, message("tools/list", {"_meta": meta}), new_headers("tools/list", version="2099-01-01"))
    assert error(answer) == (400, -32022)
    data = value(answer)["error"]["data"]
    assert data["requested"] == "2099-01-01" and NEW in data["supported"]


def without(mapping, name):
    return {key: v for key, v in mapping.items() if key != name}


@pytest.mark.parametrize(
    "params",
    [
        None,
        {},
        {"_meta": None},
        {"_meta": []},
        {"_meta": "2026-07-28"},
        {"_meta": {}},
        {"_meta": without(META, KEY + "protocolVersion")},
        {"_meta": without(META, KEY + "clientCapabilities")},
        {"_meta": dict(META, **{KEY + "clientCapabilities": None})},
        {"_meta": dict(META, **{KEY + "clientCapabilities": []})},
        {"_meta": dict(META, **{KEY + "protocolVersion": None})},
    ],
    ids=str,
)
def test_metadata_missing_or_incomplete_is_400_and_minus_32602(nosafe, params):
    assert error(post(nosafe, message("tools/list", params), new_headers("tools/list"))) == (400, -32602)


def test_metadata_without_the_client_s_name_is_enough(nosafe):
    meta = without(META, KEY + "clientInfo")
    assert result(post(nosafe, message("tools/list", {"_meta": meta}), new_headers("tools/list")))["tools"]


GOOD = new_headers("tools/call", "execcmd")
DISAGREEING = [
    {},
    without(GOOD, "MCP-Protocol-Version"),
    without(GOOD, "Mcp-Method"),
    without(GOOD, "Mcp-Name"),
    dict(GOOD, **{"MCP-Protocol-Version": "2025-11-25"}),
    dict(GOOD, **{"MCP-Protocol-Version": "2099-01-01"}),
    dict(GOOD, **{"Mcp-Method": "tools/list"}),
    dict(GOOD, **{"Mcp-Method": "Tools/Call"}),
    dict(GOOD, **{"Mcp-Method": "tools/call, tools/call"}),
    dict(GOOD, **{"Mcp-Name": "get-file"}),
    dict(GOOD, **{"Mcp-Name": "Execcmd"}),
    dict(GOOD, **{"Mcp-Name": ""}),
    dict(GOOD, **{"Mcp-Name": "=?base64?Z2V0LWZpbGU=?="}),  # get-file
    dict(GOOD, **{"Mcp-Name": "=?BASE64?ZXhlY2NtZA==?="}),  # the marks are case-sensitive
    dict(GOOD, **{"Mcp-Name": "=?base64?ZXhlY2NtZA==?"}),
    dict(GOOD, **{"Mcp-Name": "=?base64?Z?="}),  # no base64 has this length
    dict(GOOD, **{"Mcp-Name": "=?base64?=Z==?="}),
    dict(GOOD, **{"Mcp-Name": "=?base64?/w==?="}),  # no UTF-8
]


@pytest.mark.parametrize("headers", DISAGREEING, ids=lambda headers: " ".join(headers.values()) or "none")
def test_headers_missing_or_disagreeing_are_400_and_minus_32020_and_run_nothing(nosafe, headers):
    params = dict(RUN, _meta=META)
    assert error(post(nosafe, message("tools/call", params), headers)) == (400, -32020)
    assert not (nosafe.directory / "ran").exists()


def test_a_name_in_base64_agrees_once_decoded(nosafe):
    params = {"name": "execcmd", "arguments": {"cmd": "echo hi"}, "_meta": META}
    headers = new_headers("tools/call", "=?base64?ZXhlY2NtZA==?=")
    assert text(result(post(nosafe, message("tools/call", params), headers))) == "hi\n"


def test_the_case_of_header_names_does_not_count(nosafe):
    params = {"name": "execcmd", "arguments": {"cmd": "echo hi"}, "_meta": META}
    headers = {name.upper(): v for name, v in GOOD.items()}
    assert text(result(post(nosafe, message("tools/call", params), headers))) == "hi\n"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("origin", ["https://elsewhere.example", "http://localhost:1", "null"])
def test_a_foreign_origin_is_403(nosafe, era, origin):
    params = dict(RUN, _meta=META)
    headers = dict(GOOD, **{"MCP-Protocol-Version": era, "Origin": origin})
    assert post(nosafe, message("tools/call", params), headers).status == 403
    assert not (nosafe.directory / "ran").exists()


def test_its_own_origin_gets_in(nosafe):
    answer = post(nosafe, message("ping"), {"Origin": "http://127.0.0.1:%d" % nosafe.port})
    assert result(answer) == {}


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_there_are_neither_streams_nor_sessions(nosafe, method):
    answer = nosafe.request(method, "/mcp", headers={"Accept": "text/event-stream", "Mcp-Session-Id": "1"})
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert "Mcp-Session-Id" not in post(nosafe, message("ping"), {"Mcp-Session-Id": "1"}).headers


# The tools


def test_the_tools_are_listed(nosafe):
    listed = [result(ask(nosafe, "tools/list", era=era))["tools"] for era in ERAS]
    assert [tool["name"] for tool in listed[0]] == ["execcmd", "get-file", "send-file"]
    assert listed.count(listed[0]) == len(listed)


INPUTS = {
    "execcmd": ("cmd limit stdin wait", ["cmd"]),
    "get-file": ("filename", ["filename"]),
    "send-file": ("content content_base64 file filename", []),
}


@pytest.fixture
def tools(nosafe):
    return {tool["name"]: tool for tool in result(ask(nosafe, "tools/list"))["tools"]}


def operations():
    template = json.loads((ROOT / "openapi_template.json").read_text(encoding="utf-8"))
    found = [operation for methods in template["paths"].values() for operation in methods.values()]
    return {operation["operationId"]: operation for operation in found}


@pytest.mark.parametrize("name", INPUTS)
def test_a_tool_is_what_the_schema_says(tools, name):
    tool, operation = tools[name], operations()[name]
    schema = tool["inputSchema"]
    assert schema["type"] == "object"
    assert (" ".join(sorted(schema["properties"])), schema["required"]) == INPUTS[name]
    described = {p["name"]: dict(p["schema"], description=p["description"]) for p in operation.get("parameters", [])}
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {"schema": {"properties": {}}})
    described.update(body["schema"]["properties"])
    described.update(operation.get("x-mcp-files", {}))
    for parameter, found in schema["properties"].items():
        assert found == described[parameter]
    assert (tool["title"], tool["description"]) == (operation["summary"], operation["description"])


def test_the_schema_s_template_is_the_only_source(start, tmp_path):
    (tmp_path / "copy").mkdir()
    program = shutil.copy(str(PROGRAM), str(tmp_path / "copy"))
    template = json.loads((ROOT / "openapi_template.json").read_text(encoding="utf-8"))
    template["paths"]["/execcmd"]["post"]["description"] = "Mine."
    template["paths"]["/execcmd"]["post"]["parameters"][0]["description"] = "Mine, too."
    (tmp_path / "copy" / "openapi_template.json").write_text(json.dumps(template))
    tool = result(ask(start("noauth", program=program), "tools/list"))["tools"][0]
    assert tool["description"] == "Mine." and tool["inputSchema"]["properties"]["cmd"]["description"] == "Mine, too."


def test_only_get_file_is_read_only(tools):
    def hints(name):  # with the defaults of the protocol
        return dict({"readOnlyHint": False, "destructiveHint": True}, **tools[name]["annotations"])

    assert hints("get-file")["readOnlyHint"] is True
    for name in ("execcmd", "send-file"):
        assert hints(name)["readOnlyHint"] is False and hints(name)["destructiveHint"] is True


def test_chatgpt_is_told_which_argument_takes_its_files(tools):
    assert tools["send-file"]["_meta"]["openai/fileParams"] == ["file"]
    file = tools["send-file"]["inputSchema"]["properties"]["file"]
    assert file["type"] == "object" and {"download_url", "file_id"} <= set(file["properties"])
    assert all("_meta" not in tools[name] for name in ("execcmd", "get-file"))


# What the tools answer


@pytest.mark.parametrize("era", ERAS)
def test_execcmd_answers_output_as_text_and_the_facts_as_structure(nosafe, era):
    found = call(nosafe, "execcmd", {"cmd": "echo out; echo err >&2"}, era)
    facts = found["structuredContent"]
    assert found["isError"] is False and text(found) == "out\nerr\n" == facts["output"]
    assert sorted(facts) == ["exit_code", "log", "output", "pid", "running", "seconds", "truncated"]
    assert (facts["exit_code"], facts["running"], facts["truncated"], facts["log"]) == (0, False, False, None)


FAILING = [
    ("echo no; exit 3", 3, "no\n[exit code 3]\n"),
    ("kill -9 $$", -9, "[killed by SIGKILL]\n"),
    ("nonsense-", 127, None),
]


@pytest.mark.parametrize("command, code, line", FAILING)
def test_a_failing_command_is_an_error_with_its_output(nosafe, command, code, line):
    found = call(nosafe, "execcmd", {"cmd": command})
    assert found["isError"] is True and found["structuredContent"]["exit_code"] == code
    assert text(found) == line or line is None and text(found).endswith("[exit code 127]\n")


def test_a_command_that_times_out_is_an_error(start):
    found = call(start("noauth", "-nosafe", "-timeout", "0.5"), "execcmd", {"cmd": "echo a; sleep 30"})
    assert found["isError"] is True and text(found) == "a\n[timed out after 0.5 s; killed]\n"


def test_a_command_that_runs_on_is_no_error_and_names_its_log(nosafe):
    found = call(nosafe, "execcmd", {"cmd": "echo a; sleep 3; echo b", "wait": 1})
    facts = found["structuredContent"]
    assert found["isError"] is False and facts["running"] is True and facts["exit_code"] is None
    assert "still running" in text(found) and facts["log"] in text(found)
    assert text(call(nosafe, "get-file", {"filename": facts["log"]})).startswith("a\n")


def test_execcmd_takes_standard_input_and_a_limit(nosafe):
    assert text(call(nosafe, "execcmd", {"cmd": "cat", "stdin": "a \u20ac\n"})) == "a \u20ac\n"
    found = call(nosafe, "execcmd", {"cmd": "seq 10000", "limit": 100})
    assert found["structuredContent"]["truncated"] is True and len(text(found)) < 500
    assert "the whole output is in " + found["structuredContent"]["log"] in text(found)


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
@pytest.mark.parametrize("command", ["true", "echo abc", "head -c 100 /dev/zero"])
def test_a_small_limit_is_answered(start, limit, command):
    """However little it leaves room for: what is halved until it fits must come to an end."""
    daemon = start("noauth", "-nosafe")
    target = "/execcmd?limit=%d&cmd=%s" % (limit, command.replace(" ", "+"))
    assert daemon.request("POST", target, headers={"Accept": "application/json"}, timeout=10).status == 200
    body = json.dumps(message("tools/call", {"name": "execcmd", "arguments": {"cmd": command, "limit": limit}}))
    assert daemon.request("POST", "/mcp", body, timeout=10).status == 200


HEAVY = {
    "zeros": "head -c 200000 /dev/zero",
    "no UTF-8": r"head -c 200000 /dev/zero | tr '\0' '\377'",
    "quotes": "yes '\"' | tr -d '\\n' | head -c 200000",
    "backslashes": r"yes '\\' | tr -d '\n' | head -c 200000",
    "line ends": "yes '' | head -c 200000",
    "two bytes each": "yes \u00e9 | tr -d '\\n' | head -c 200000",
    "four bytes each": "yes \U0001f600 | tr -d '\\n' | head -c 200000",
    "plain": "yes | head -c 200000",
    "just the limit, escaped": "head -c 65536 /dev/zero",
    "some escaped": "head -c 30000 /dev/zero; yes | head -c 30000",
}


@pytest.mark.parametrize("kind", HEAVY)
@pytest.mark.parametrize("way", ["text", "json"] + list(ERAS[-2:]))
def test_an_answer_stays_under_what_chatgpt_takes(nosafe, way, kind):
    if way in ("text", "json"):
        headers = {"Content-Type": "application/json", "Accept": "application/json" if way == "json" else "*/*"}
        answer = nosafe.request("POST", "/execcmd", json.dumps({"cmd": HEAVY[kind]}), headers)
    else:
        answer = ask(nosafe, "tools/call", {"name": "execcmd", "arguments": {"cmd": HEAVY[kind]}}, way)
    assert answer.status == 200
    assert 5000 < len(answer.body.decode("utf-8", "replace")) < CHARACTERS
    if way == "text":
        return
    found = json.loads(answer.body.decode())
    facts = found if way == "json" else found["result"]["structuredContent"]
    assert way == "json" or text(found["result"]) == facts["output"]
    assert facts["truncated"] is True and facts["exit_code"] == 0
    left_out = int(re.search(r"\u2026 ([0-9]+) bytes left out \u2026", facts["output"]).group(1))
    with open(facts["log"], "rb") as log:
        assert 0 < left_out < len(log.read())


def test_a_json_answer_is_bounded_where_all_is_asked_for(nosafe):
    """It is built in memory; the text, which is sent from the file, is not bounded."""
    found = call(nosafe, "execcmd", {"cmd": "head -c 20000000 /dev/zero", "limit": 0})
    assert found["structuredContent"]["truncated"] is True and len(json.dumps(found)) < 1 << 22


@pytest.mark.parametrize("era", ERAS)
def test_get_file_gives_text_where_the_bytes_are_utf_8(nosafe, era):
    (nosafe.directory / "text.bin").write_bytes("line\r\n\u20ac\0".encode())
    found = call(nosafe, "get-file", {"filename": "text.bin"}, era)
    assert found["isError"] is False and text(found) == "line\r\n\u20ac\0"
    assert "structuredContent" not in found


@pytest.mark.parametrize("name, kind", [("a.png", "image/png"), ("b.JPG", "image/jpeg"), ("c.gif", "image/gif")])
def test_get_file_gives_an_image_block_for_an_image(nosafe, name, kind):
    (nosafe.directory / name).write_bytes(PNG)
    (block,) = call(nosafe, "get-file", {"filename": name})["content"]
    assert block == {"type": "image", "data": base64.b64encode(PNG).decode(), "mimeType": kind}


@pytest.mark.parametrize("name, kind", [("a.pdf", "application/pdf"), ("b b\u20ac", None), ("data:image;png,x", None)])
def test_get_file_gives_other_files_as_an_embedded_resource(nosafe, name, kind):
    data = bytes(range(256))
    (nosafe.directory / name).write_bytes(data)
    (block,) = call(nosafe, "get-file", {"filename": name})["content"]
    assert block["type"] == "resource" and sorted(block["resource"]) == ["blob", "mimeType", "uri"]
    assert base64.b64decode(block["resource"]["blob"]) == data
    assert block["resource"]["mimeType"] == (kind or "application/octet-stream")
    assert re.match(r"file:///[!-~]*\Z", block["resource"]["uri"])


def test_get_file_gives_an_empty_file(nosafe):
    (nosafe.directory / "empty").write_bytes(b"")
    assert text(call(nosafe, "get-file", {"filename": "empty"})) == ""


@pytest.mark.parametrize("filename", ["missing", "/missing/", ".", "/dev/zero"])
def test_get_file_of_what_is_no_file_is_an_error(nosafe, filename):
    found = call(nosafe, "get-file", {"filename": filename})
    assert found["isError"] is True and filename in text(found)


@pytest.mark.parametrize("way", ["header", "secret URL"])
def test_get_file_of_a_big_file_names_the_url_that_fetches_it(start, way):
    daemon = start("me:secret", "-nosafe")
    data = b"\xff" * (INLINE + 1)
    (daemon.directory / "big & more.bin").write_bytes(data)
    (daemon.directory / "just.bin").write_bytes(data[:-1])
    headers = {} if way == "secret URL" else {"Authorization": "Bearer secret"}
    path = ("/" + token_of(daemon) if way == "secret URL" else "") + "/mcp"

    def fetch(filename):
        params = {"name": "get-file", "arguments": {"filename": filename}}
        return result(post(daemon, message("tools/call", params), headers, path))

    found = fetch("big & more.bin")
    assert found["isError"] is True and str(len(data)) in text(found)
    url = re.search(r"http://127\.0\.0\.1:%d(/\S+)" % daemon.port, text(found)).group(1)
    answer = daemon.request("GET", url, headers=headers)
    assert answer.status == 200 and answer.body == data
    found = fetch("just.bin")
    assert found["isError"] is False and len(base64.b64decode(found["content"][0]["resource"]["blob"])) == INLINE


@pytest.mark.parametrize("era", ERAS)
def test_send_file_stores_text_and_base64(nosafe, era):
    said = text(call(nosafe, "send-file", {"filename": "sent", "content": "a\r\n\u20ac"}, era))
    assert "sent" in said and "6 bytes" in said and (nosafe.directory / "sent").read_bytes() == "a\r\n\u20ac".encode()
    data = bytes(range(256))
    found = call(nosafe, "send-file", {"filename": "sent", "content_base64": base64.b64encode(data).decode()}, era)
    assert found["isError"] is False and (nosafe.directory / "sent").read_bytes() == data
    assert call(nosafe, "send-file", {"filename": "sent", "content": ""}, era)["isError"] is False
    assert (nosafe.directory / "sent").read_bytes() == b""


@pytest.mark.parametrize("name", ["../traverse", "/tmp/../traverse", "a/b/traverse", "..\\..\\traverse", "/traverse"])
def test_a_name_that_leads_elsewhere_is_stored_here(nosafe, name):
    (nosafe.directory / "traverse").write_text("before")
    assert call(nosafe, "send-file", {"filename": name, "content": "in"})["isError"] is False
    assert (nosafe.directory / "traverse").read_text() == "in"
    assert not (nosafe.directory.parent / "traverse").exists() and not os.path.exists("/traverse")


@pytest.mark.parametrize("name", ["", ".", "..", "a/", "a/..", "..\\", "a\nb", "x" * 256])
def test_a_name_that_is_none_is_an_error(nosafe, name):
    before = sorted(os.listdir(str(nosafe.directory)))
    assert call(nosafe, "send-file", {"filename": name, "content": "in"})["isError"] is True
    assert sorted(os.listdir(str(nosafe.directory))) == before


def test_a_file_of_chatgpt_s_from_a_host_not_listed_is_an_error(nosafe):
    file = {"download_url": "https://localhost/a", "file_id": "file-1", "file_name": "handed.txt"}
    found = call(nosafe, "send-file", {"file": file})
    assert found["isError"] is True and "handed.txt" in text(found)
    assert not (nosafe.directory / "handed.txt").exists()


# The gate


ACTIONS = [
    ("execcmd", {"cmd": "echo > ran"}, "echo > ran"),
    ("get-file", {"filename": "there"}, "there"),
    ("send-file", {"filename": "ran", "content": "in"}, "ran"),
]


@pytest.mark.parametrize("name, arguments, shown", ACTIONS, ids=[row[0] for row in ACTIONS])
def test_the_operator_is_asked_and_a_reason_comes_back_in_a_result(start, name, arguments, shown):
    daemon = start("noauth", tty=True)
    (daemon.directory / "there").write_text("here")
    waiting = Background(call, daemon, name, arguments)
    assert shown in daemon.expect("n REASON", 15).partition(name + " asked for by 127.0.0.1")[2]
    assert not (daemon.directory / "ran").exists()
    daemon.expect(": ")
    daemon.type("n use the other one \u20ac\n")
    found = waiting.answer()
    assert found["isError"] is True and "denied" in text(found) and text(found).endswith("use the other one \u20ac")
    assert not (daemon.directory / "ran").exists()
    waiting = Background(call, daemon, name, arguments, NEW)
    daemon.expect("n REASON", 15)
    daemon.expect(": ")
    daemon.type("y\n")
    assert waiting.answer()["isError"] is False
    assert (daemon.directory / "ran").exists() or name == "get-file"


def test_a_prompt_that_nobody_answers_is_a_result(start):
    daemon = start("noauth", "-wait", "1", tty=True)
    for era in (OLD[-1], NEW):
        found = call(daemon, "execcmd", {"cmd": "echo > ran"}, era)
        assert found["isError"] is True and "nobody answered" in text(found)
    assert not (daemon.directory / "ran").exists()


def test_without_a_terminal_every_tool_is_denied(start):
    daemon = start("noauth")
    for name, arguments, _ in ACTIONS:
        found = call(daemon, name, arguments)
        assert found["isError"] is True and "denied" in text(found)
    assert not (daemon.directory / "ran").exists()


def test_nobody_is_asked_for_what_is_no_action(start):
    daemon = start("noauth", tty=True)
    for method in ("initialize", "ping", "tools/list"):
        result(ask(daemon, method))
    result(ask(daemon, "server/discover", era=NEW))
    assert "asked for by" not in daemon.errors()


# Who gets in, and how they learn


def token_of(daemon):
    return re.search(r"secret URL: \S+/([0-9a-f]{32})\n", daemon.output()).group(1)


def test_with_a_key_no_header_is_401(start):
    daemon = start("me:secret", "-nosafe")
    call_it = message("tools/call", RUN)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic bWU6d3Jvbmc="}):
        answer = post(daemon, call_it, headers)
        assert answer.status == 401 and answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert post(daemon, call_it, path="/%s/mcp" % ("0" * 32)).status == 401
    assert not (daemon.directory / "ran").exists()
    for headers in ({"Authorization": "Bearer secret"}, {"Authorization": "Basic bWU6c2VjcmV0"}):
        assert result(post(daemon, call_it, headers))["isError"] is False


@pytest.mark.parametrize("era", ERAS)
def test_the_secret_url_needs_no_header(start, era):
    daemon = start("me:secret", "-nosafe")
    path = "/%s/mcp" % token_of(daemon)
    assert len(result(ask(daemon, "tools/list", era=era, path=path))["tools"]) == 3
    assert text(call(daemon, "execcmd", {"cmd": "echo hi"}, era, path)) == "hi\n"


def test_start_up_names_the_endpoint(start):
    daemon = start("noauth")
    assert "MCP endpoint at http://127.0.0.1:%d/mcp\n" % daemon.port in daemon.output()


def test_start_up_shows_what_to_paste_for_clients_that_send_no_header(start):
    daemon = start("me:secret", "-url", "https://public.example", "-nosafe")
    url = "https://public.example/%s/mcp" % token_of(daemon)
    lines = [line for line in daemon.output().splitlines() if url in line]
    assert any("ChatGPT" in line and "Claude.ai" in line for line in lines) or len(lines) > 1
    assert result(ask(daemon, "ping", path="/%s/mcp" % token_of(daemon))) == {}


def test_start_up_shows_what_to_paste_for_clients_that_send_a_header(start):
    daemon = start("me:secret", "-nosafe")
    output = daemon.output()
    for client in ("Claude Code", "Cursor", "VS Code", "Codex"):
        assert client in output
    header = re.search(r"Authorization[\"']?\s*[:=]\s*[\"']?((?:Basic|Bearer) [A-Za-z0-9+/=]+)", output).group(1)
    assert result(post(daemon, message("ping"), {"Authorization": header})) == {}


def test_start_up_s_json_and_command_are_complete(start):
    """What is pasted has the endpoint and the header in it."""
    output = start("me:secret").output()
    command = re.search(r"claude mcp add .*", output)
    assert command, "there is no line to paste for Claude Code"
    assert "/mcp" in command.group() and "Authorization: " in command.group() and "--transport http" in command.group()
    found = re.search(r"\{.*\}", output)
    assert found, "there is no JSON to paste for Cursor and VS Code"
    server = json.loads(found.group())
    while "url" not in server:  # within mcpServers, a name
        (server,) = server.values()
    assert server["url"].endswith("/mcp") and re.match(r"(Basic|Bearer) \S+\Z", server["headers"]["Authorization"])


def test_without_a_key_start_up_shows_no_secret(start):
    output = start("noauth").output()
    assert "Authorization" not in output and "secret URL" not in output


def test_a_call_is_logged_as_its_action(start):
    daemon = start("me:secret", "-nosafe", "-log", "audit")
    call(daemon, "execcmd", {"cmd": "echo logged"}, path="/%s/mcp" % token_of(daemon))
    post(daemon, message("tools/list"), path="/%s/mcp" % token_of(daemon))
    wait_for(lambda: (daemon.directory / "audit").read_bytes().count(b"\n") == 2, what="a line for each")
    audit = (daemon.directory / "audit").read_text()
    entries = [json.loads(line) for line in audit.splitlines()]
    assert [entry["operation"] for entry in entries] == ["execcmd", "POST"] and entries[0]["subject"] == "echo logged"
    assert token_of(daemon) not in audit and "secret" not in audit


def test_each_call_of_a_batch_has_its_line_in_the_log(start):
    daemon = start("noauth", "-nosafe", "-log", "audit")
    calls = [("execcmd", {"cmd": "exit 3"}), ("send-file", {"filename": "f", "content": "five!"})]
    calls += [("get-file", {"filename": "missing"}), ("execcmd", {"cmd": "cat", "stdin": "its\ninput"})]
    batch = [message("tools/call", {"name": name, "arguments": given}) for name, given in calls]
    assert post(daemon, batch).status == 200
    wait_for(lambda: (daemon.directory / "audit").read_bytes().count(b"\n") == 4, what="a line for each")
    entries = [json.loads(line) for line in (daemon.directory / "audit").read_text().splitlines()]
    assert [entry["operation"] for entry in entries] == [name for name, _ in calls]
    assert entries[0]["subject"] == "exit 3" and entries[0]["result"]["exit_code"] == 3
    assert entries[1]["subject"].endswith("/f") and entries[1]["result"] is None
    assert "No such file" in entries[2]["result"]["error"]
    assert entries[3]["result"]["exit_code"] == 0 and entries[3]["facts"][-1].endswith("its\ninput")
    wait_for(lambda: daemon.errors().count("127.0.0.1 ") == 4, what="the log")
    daemon.stop()
    assert "actions run: 4, denied: 0" in daemon.errors()


def test_what_was_denied_in_a_batch_is_logged_as_that_with_the_reason(start):
    daemon = start("noauth", "-log", "audit", tty=True)
    batch = [message("tools/call", {"name": "execcmd", "arguments": {"cmd": "echo " + one}}) for one in "12"]
    request = Background(post, daemon, batch)
    for typed in ("y\n", "n not now\n"):
        daemon.expect("REASON")
        daemon.expect(": ")
        daemon.type(typed)
    assert request.answer().status == 200
    wait_for(lambda: (daemon.directory / "audit").read_bytes().count(b"\n") == 2, what="a line for each")
    first, second = [json.loads(line) for line in (daemon.directory / "audit").read_text().splitlines()]
    assert (first["subject"], first["decision"], first["result"]["exit_code"]) == ("echo 1", "yes", 0)
    assert (second["subject"], second["decision"]) == ("echo 2", "refused")
    assert second["result"] == {"error": "denied by the operator: not now"}


def test_an_argument_that_is_null_is_not_given(nosafe):
    for era in ERAS:
        assert text(call(nosafe, "execcmd", {"cmd": "cat", "stdin": None, "wait": None, "limit": None}, era)) == ""
        found = call(nosafe, "send-file", {"filename": "null", "content": "x", "content_base64": None}, era)
        assert not found["isError"]
        (nosafe.directory / "null").unlink()


def test_a_file_that_grew_is_sent_as_it_was_shown(start):
    daemon = start("noauth", tty=True)
    path = daemon.directory / "grows"
    for change, expected in (("0123456789 and more", "0123456789"), ("012", None)):
        path.write_text("0123456789")
        request = Background(call, daemon, "get-file", {"filename": "grows"})
        assert "10 bytes" in daemon.expect("REASON")
        path.write_text(change)
        daemon.type("y\n")
        found = request.answer()
        assert found["isError"] == (expected is None) and (text(found) == expected or not expected)


def test_names_that_are_not_utf_8_around_it_are_no_bug(start, tmp_path):
    outer = os.path.join(os.fsencode(str(tmp_path)), b"caf\xe9")
    inner = os.path.join(outer, b"t\xe9")
    os.makedirs(inner)
    daemon = start("noauth", "-nosafe", directory=pathlib.Path(os.fsdecode(outer)), env={"TMPDIR": os.fsdecode(inner)})
    assert "caf\\udce9" in result(ask(daemon, "initialize", {"protocolVersion": OLD[-1]}))["instructions"]
    assert "caf\\udce9" in result(ask(daemon, "server/discover", era=NEW))["instructions"]
    found = call(daemon, "execcmd", {"cmd": "seq 100000"})
    assert found["structuredContent"]["truncated"] and os.path.exists(found["structuredContent"]["log"])
    assert daemon.request("POST", "/execcmd?cmd=seq%20100000", b"").status == 200
