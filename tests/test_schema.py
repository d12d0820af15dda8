"""The schema: valid OpenAPI, within the rules of ChatGPT's importer, the same in the file and in the program."""

import json
import re
import shutil
import sys

import pytest
from conftest import PROGRAM, ROOT

sys.path.insert(0, str(ROOT))
import mycodeinterpreter  # noqa: E402

STATUSES = {
    "execcmd": "200 202 400 401 403 408 413 429 500 507",
    "get-file": "200 206 304 400 401 403 404 408 413 416 429",
    "send-file": "200 400 401 403 408 411 413 429 500 507",
}


@pytest.fixture(params=["noauth", "key", "secret URL"])
def schema(request, start):
    daemon = start(*(["noauth"] if request.param == "noauth" else ["me:secret"]), "-url", "https://public.example")
    token = re.search(r"secret URL: https://public.example(/[0-9a-f]{32})", daemon.output())
    path = (token.group(1) if token and request.param == "secret URL" else "") + "/openapi.json"
    answer = daemon.request("GET", path)
    assert answer.status == 200 and answer.headers["Content-Type"] == "application/json"
    return json.loads(answer.body.decode())


def operations(schema):
    return [operation for methods in schema["paths"].values() for operation in methods.values()]


def nodes(value):
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(child)


def test_it_is_valid_openapi(schema):
    validator = pytest.importorskip("openapi_spec_validator")
    getattr(validator, "validate", validator.validate_spec)(schema)


def test_it_has_the_three_operations_with_every_status_they_answer(schema):
    found = {operation["operationId"]: " ".join(operation["responses"]) for operation in operations(schema)}
    assert found == STATUSES


def test_it_keeps_the_rules_of_the_importer(schema):
    assert schema["openapi"] in ("3.1.0", "3.1.1")
    assert isinstance(schema["components"]["schemas"], dict)
    assert len(schema["components"].get("securitySchemes", {})) <= 1
    (server,) = schema["servers"]
    assert re.match(r"https://[a-z0-9.-]+(/[0-9a-f]{32})?\Z", server["url"])
    assert len(operations(schema)) <= 30
    for operation in operations(schema):
        assert operation["operationId"]
        assert len(operation["summary"]) <= 300 and len(operation["description"]) <= 300
        for parameter in operation.get("parameters", []):
            assert "$ref" not in parameter and parameter["in"] != "header"
            assert len(parameter["description"]) <= 700
    for node in nodes(schema):
        if isinstance(node, dict) and node.get("type") == "object":
            assert "properties" in node


def test_the_security_scheme_in_force_is_the_only_one(start):
    def of(*arguments):
        daemon = start(*arguments)
        return json.loads(daemon.request("GET", "/openapi.json").body.decode())

    assert of("me:secret")["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "basic"}}
    assert of("me:secret")["security"] == [{"key": []}]
    without = of("noauth")
    assert "security" not in without and "securitySchemes" not in without["components"]


def test_the_file_and_the_copy_in_the_program_are_equal():
    written = (ROOT / "openapi_template.json").read_text(encoding="utf-8")
    assert written == json.dumps(mycodeinterpreter.TEMPLATE, indent=2) + "\n", "run `make template`"


def test_a_file_beside_the_program_wins(start, tmp_path):
    (tmp_path / "copy").mkdir()
    program = shutil.copy(str(PROGRAM), str(tmp_path / "copy"))
    alone = start("noauth", program=program)
    assert json.loads(alone.request("GET", "/openapi.json").body.decode())["info"]["title"] == "MyCodeInterpreter"
    template = json.loads((ROOT / "openapi_template.json").read_text(encoding="utf-8"))
    template["info"]["title"] = "Mine"
    (tmp_path / "copy" / "openapi_template.json").write_text(json.dumps(template))
    changed = start("noauth", program=program)
    assert json.loads(changed.request("GET", "/openapi.json").body.decode())["info"]["title"] == "Mine"


def test_a_template_of_the_paths_alone_is_filled(start, tmp_path):
    template = json.loads((ROOT / "openapi_template.json").read_text(encoding="utf-8"))
    (tmp_path / "copy").mkdir()
    shutil.copy(str(PROGRAM), str(tmp_path / "copy"))
    bare = {"openapi": "3.1.0", "info": {"title": "Mine", "version": "1"}, "paths": template["paths"]}
    (tmp_path / "copy" / "openapi_template.json").write_text(json.dumps(bare))
    daemon = start("noauth", program=tmp_path / "copy" / PROGRAM.name)
    served = json.loads(daemon.request("GET", "/openapi.json").body)
    assert served["servers"] == [{"url": "http://127.0.0.1:%d" % daemon.port}] and served["paths"] == bare["paths"]


def test_a_broken_template_is_one_line_and_exit_1(start, tmp_path):
    (tmp_path / "copy").mkdir()
    program = shutil.copy(str(PROGRAM), str(tmp_path / "copy"))
    (tmp_path / "copy" / "openapi_template.json").write_text("{")
    daemon = start("noauth", program=program, ready=False)
    assert daemon.process.wait(10) == 1
    assert daemon.errors().startswith("error: openapi_template.json") and daemon.errors().count("\n") == 1
