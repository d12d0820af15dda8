"""ChatGPT's actions as they are: files that it hands over by links (openaiFileIdRefs), and files that it takes back."""

import base64
import json
import os
import re
import socket
import socketserver
import ssl
import threading
import time

import pytest
import trustme
from conftest import PROGRAM, Daemon, wait_for

import mycodeinterpreter

DATA = bytes(range(256)) * 5000 + b"\r\n--"  # over a megabyte
INLINE = 4 << 20  # bytes of a file that comes within JSON


def response(data, *lines, status="200 OK"):
    """An answer of HTTP/1.1 as bytes."""
    head = ["HTTP/1.1 " + status] + (list(lines) or ["Content-Length: %d" % len(data)])
    return "\r\n".join(head + ["Connection: close", "", ""]).encode() + data


class FileHost(socketserver.ThreadingTCPServer):
    """An https server with answers of bytes, or functions of the socket, by path; `asked` has the paths in order."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, certificate):
        # What the name leads to first is what the daemon asks.
        self.address_family, _, _, _, address = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)[0]
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        self.answers, self.asked, self.ended = {}, [], threading.Event()
        super().__init__((address[0], 0), None)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def finish_request(self, request, client_address):
        request.settimeout(20)
        with self.context.wrap_socket(request, server_side=True) as sock:
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(4096) or b"\r\n\r\n"
            path = head.split(b" ")[1].decode().partition("?")[0]
            self.asked.append(path)
            answer = self.answers[path]
            answer(sock) if callable(answer) else sock.sendall(answer)
            sock.unwrap()  # an end that TLS knows of: without it nobody can tell it from a cut

    def handle_error(self, request, client_address):
        """That a client goes away, or does not like the certificate, is what is tested."""

    def link(self, path, host="localhost"):
        return "https://%s:%d%s?sig=OPENSESAME" % (host, self.port, path)

    def close(self):
        self.ended.set()
        self.shutdown()
        self.server_close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """(a certification authority, the path of its certificate)"""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(path))
    return ca, path


@pytest.fixture(scope="module")
def hosts(authority):
    """The https servers: one as it should be, one whose certificate is another's, one whose authority nobody knows."""
    found = {
        "good": FileHost(authority[0].issue_cert("localhost", "127.0.0.1")),
        "another's": FileHost(authority[0].issue_cert("elsewhere.example")),
        "unknown": FileHost(trustme.CA().issue_cert("localhost")),
    }
    yield found
    for host in found.values():
        host.close()


@pytest.fixture
def host(hosts):
    """The one as it should be, with the answers that the tests share."""
    one = hosts["good"]

    def drip(sock):
        sock.sendall(response(b"", "Content-Length: 1000"))
        while not one.ended.wait(0.1):
            sock.sendall(b".")

    def keep(data):
        def answer(sock):
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            sock.recv(1)  # until the client closes

        return answer

    whole = response(DATA)
    one.answers = {
        "/a": whole,
        "/b": response(b""),
        "/chunked": response(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        "/until-closed": response(b"to the end", "Content-Type: text/plain"),
        "/kept": keep(DATA),
        "/kept-empty": keep(b""),
        "/missing": response(b"no", "Content-Length: 2", status="404 Not Found"),
        "/expired": response(b"no", "Content-Length: 2", status="403 Forbidden"),
        "/broken": response(b"no", "Content-Length: 2", status="500 Internal Server Error"),
        "/cut": whole[:-1],
        "/cut-early": response(b"", "Content-Length: 10"),
        "/cut-chunked": response(b"3\r\nabc\r\nff\r\nde", "Transfer-Encoding: chunked"),
        "/no-chunks": response(b"xyz\r\nabc\r\n", "Transfer-Encoding: chunked"),
        "/no-http": b"220 mail.example\r\n\r\n",
        "/nothing": b"",
        "/long-line": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100000 + b"\r\n\r\n",
        "/redirect": response(b"", "Location: /a", "Content-Length: 0", status="302 Found"),
        "/redirect-elsewhere": response(
            b"", "Location: " + one.link("/a", "127.0.0.1"), "Content-Length: 0", status="307 Temporary Redirect"
        ),
        "/redirect-down": response(
            b"", "Location: http://localhost/", "Content-Length: 0", status="301 Moved Permanently"
        ),
        "/silent": lambda sock: one.ended.wait(20),
        "/drip": drip,
    }
    one.asked = []
    return one


@pytest.fixture
def begin(start, authority):
    """Starts the daemon as one that knows the authority and takes files from localhost."""

    def begin_one(*arguments, filehost="localhost", **options):
        more = ["-filehost", filehost] if filehost else []
        return start("noauth", *(list(arguments) + more), env={"SSL_CERT_FILE": str(authority[1])}, **options)

    return begin_one


@pytest.fixture(scope="module")
def unasked(tmp_path_factory, authority):
    """The same without a question, for all the tests of this file."""
    directory = tmp_path_factory.mktemp("unasked") / "work"
    directory.mkdir()
    environment = {"SSL_CERT_FILE": str(authority[1])}
    one = Daemon(["noauth", "-nosafe", "-filehost", "localhost", "-port", "0"], directory, env=environment).ready()
    yield one
    one.close()


@pytest.fixture
def daemon(unasked):
    """That one, with nothing in its directory."""
    for path in unasked.directory.iterdir():
        path.unlink()
    return unasked


def send(daemon, value, timeout=60):
    headers = {"Content-Type": "application/json", "Accept": "*/*"}
    return daemon.request("POST", "/send-file", json.dumps(value), headers, timeout)


def ref(name, link):
    """A file as ChatGPT hands it over."""
    return {"name": name, "id": "file-Abc123", "mime_type": "application/octet-stream", "download_link": link}


def refs(*files):
    return {"openaiFileIdRefs": [ref(name, link) for name, link in files]}


def files(daemon):
    """All that is in its working directory."""
    return {name: (daemon.directory / name).read_bytes() for name in os.listdir(str(daemon.directory))}


# Files that come by a link


def test_a_file_is_stored_byte_for_byte(daemon, host):
    answer = send(daemon, refs(("data \u20ac.bin", host.link("/a"))))
    assert answer.status == 200 and "data \u20ac.bin" in answer.body.decode() and str(len(DATA)) in answer.body.decode()
    assert files(daemon) == {"data \u20ac.bin": DATA}
    assert host.asked == ["/a"]


def test_several_files_are_stored(daemon, host):
    given = [("one", "/a"), ("two", "/b"), ("three", "/chunked"), ("four", "/until-closed")]
    answer = send(daemon, refs(*[(name, host.link(path)) for name, path in given]))
    assert answer.status == 200 and all(name in answer.body.decode() for name, _ in given)
    assert files(daemon) == {"one": DATA, "two": b"", "three": b"abcde", "four": b"to the end"}


def test_a_host_that_keeps_the_connection_open_delays_nothing(daemon, host):
    began = time.monotonic()
    assert send(daemon, refs(("one", host.link("/kept")), ("two", host.link("/kept-empty")))).status == 200
    assert files(daemon) == {"one": DATA, "two": b""}
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("count", [10, 11])
def test_at_most_ten_files_are_taken(daemon, host, count):
    answer = send(daemon, refs(*[("file%d" % number, host.link("/b")) for number in range(count)]))
    stored = files(daemon)
    assert len(host.asked) == len(stored) == answer.body.count(b"stored ") <= 10
    assert (answer.status, len(stored)) == (200, 10) or (answer.status, len(stored), count) == (400, 0, 11)


def test_a_name_that_leads_elsewhere_is_stored_here(daemon, host):
    assert send(daemon, refs(("../../up", host.link("/chunked")), ("/tmp/abs", host.link("/b")))).status == 200
    assert files(daemon) == {"up": b"abcde", "abs": b""}


def test_a_file_that_is_there_is_replaced(daemon, host):
    (daemon.directory / "there").write_text("before")
    assert send(daemon, refs(("there", host.link("/chunked")))).status == 200
    assert files(daemon) == {"there": b"abcde"}


def test_a_listed_address_is_asked(begin, host):
    if host.server_address[0] != "127.0.0.1":
        pytest.skip("localhost is not 127.0.0.1 here")
    daemon = begin("-nosafe", filehost="127.0.0.1")
    assert send(daemon, refs(("a", host.link("/a", "127.0.0.1")))).status == 200
    assert files(daemon) == {"a": DATA}


PATHS = """/missing /expired /broken /cut /cut-early /cut-chunked /no-chunks /no-http /nothing /long-line
    /redirect /redirect-elsewhere /redirect-down""".split()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("before", [None, b"before"], ids=["new", "there"])
def test_a_link_that_fails_leaves_nothing_behind_and_says_which_one(daemon, host, path, before):
    if before:
        (daemon.directory / "bad").write_bytes(before)
    answer = send(daemon, refs(("good", host.link("/a")), ("bad", host.link(path)), ("last", host.link("/b"))))
    assert answer.status == 400 and b"bad" in answer.body and b"good" not in answer.body, answer
    assert files(daemon) == ({"bad": before} if before else {})
    assert host.asked == ["/a", path], "a redirect was followed, or one more file asked for"


@pytest.mark.parametrize("server", ["another's", "unknown"])
def test_a_certificate_that_proves_nothing_is_refused(daemon, hosts, server):
    one = hosts[server]
    one.answers = {"/a": response(DATA)}
    answer = send(daemon, refs(("bad", one.link("/a"))))
    assert answer.status == 400 and b"bad" in answer.body
    assert files(daemon) == {} and one.asked == []


LINKS = [
    "http://localhost:PORT/a",
    "https://elsewhere.example/a",
    "https://localhost.elsewhere.example:PORT/a",
    "https://xlocalhost:PORT/a",
    "https://127.0.0.1:PORT/a",
    "https://127.1:PORT/a",
    "https://2130706433:PORT/a",
    "https://[::1]:PORT/a",
    "https://localhost@127.0.0.1:PORT/a",
    "https://127.0.0.1:PORT/a@localhost/",
    "https://127.0.0.1:PORT#@localhost/a",
    "https://127.0.0.1:PORT\\@localhost/a",
    "https://localhost:PORT\\@127.0.0.1/a",
    "https://localhost:99999/a",
    "https://localhost:0/a",
    "https://localhost:/a",
    "https://:PORT/a",
    "https:///a",
    "https://.localhost:PORT/a",
    "https://%s.localhost:PORT/a" % ("x" * 64),
    "https://localhost:PORT/a b",
    "https://localhost:PORT/a\r\nX: y",
    "https://localhost:PORT/\u20ac",
    "//localhost:PORT/a",
    "localhost:PORT/a",
    "ftp://localhost:PORT/a",
    "file:///etc/hostname",
    "data:text/plain,a",
    "",
]


@pytest.mark.parametrize("link", LINKS, ids=repr)
def test_a_link_that_is_not_https_on_a_listed_host_is_not_asked(daemon, host, link):
    answer = send(daemon, refs(("bad", link.replace("PORT", str(host.port)))))
    assert answer.status == 400 and b"bad" in answer.body, answer
    assert files(daemon) == {} and host.asked == []


NAMES = ["localhost", "127.0.0.1", "oaiusercontent.com.elsewhere.example", "xoaiusercontent.com"]


@pytest.mark.parametrize("name", NAMES)
def test_without_filehost_only_openai_s_hosts_are_asked(begin, host, name):
    daemon = begin("-nosafe", filehost=None)
    answer = send(daemon, refs(("bad", host.link("/a", name))))
    assert answer.status == 400 and b"bad" in answer.body and b"-filehost" in answer.body
    assert files(daemon) == {} and host.asked == []


def test_a_private_address_behind_an_allowed_name_is_not_asked(begin, host):
    """127.0.0.1 is below the listed 0.0.1 as a.example is below example: allowed by its name, and private."""
    if host.server_address[0] != "127.0.0.1":
        pytest.skip("localhost is not 127.0.0.1 here")
    daemon = begin("-nosafe", filehost="0.0.1")
    answer = send(daemon, refs(("bad", host.link("/a", "127.0.0.1"))))
    assert answer.status == 400 and b"private" in answer.body
    assert files(daemon) == {} and host.asked == []


@pytest.mark.parametrize("path", ["/silent", "/drip"])
def test_a_link_that_takes_too_long_is_given_up(begin, host, path):
    daemon = begin("-nosafe", "-wait", "1")
    began = time.monotonic()
    answer = send(daemon, refs(("slow", host.link(path))), timeout=10)
    assert answer.status == 400 and b"slow" in answer.body
    assert time.monotonic() - began < 8 and files(daemon) == {}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """The program with a limit that a test can reach."""
    program = tmp_path_factory.mktemp("narrow") / "mycodeinterpreter.py"
    text, count = re.subn(r"(?m)^DOWNLOAD_LIMIT = .*$", "DOWNLOAD_LIMIT = 100000", PROGRAM.read_text(encoding="utf-8"))
    assert count == 1
    program.write_text(text, encoding="utf-8")
    return program


@pytest.mark.parametrize("size, status", [(100000, 200), (100001, 400)])
@pytest.mark.parametrize("framing", ["length", "until closed"])
def test_a_file_that_is_too_large_is_refused(begin, host, narrow, size, status, framing):
    daemon = begin("-nosafe", program=narrow)
    host.answers["/large"] = response(b"x" * size, *(["Content-Type: text/plain"] if framing == "until closed" else []))
    answer = send(daemon, refs(("large", host.link("/large"))))
    assert answer.status == status and b"large" in answer.body
    assert files(daemon) == ({"large": b"x" * size} if status == 200 else {})


@pytest.mark.parametrize(
    "value",
    [
        [],
        None,
        "file-Abc123",
        ["file-Abc123"],
        [None],
        [{}],
        {"name": "a"},
        [{"name": "a"}],
        [{"download_link": "https://localhost/a"}],
        [{"name": 5, "download_link": "https://localhost/a"}],
        [{"name": "a", "download_link": 5}],
        [{"name": "a", "download_link": None}],
        [{"name": "", "download_link": "https://localhost/a"}],
        [{"name": "..", "download_link": "https://localhost/a"}],
        [{"name": "a\0b", "download_link": "https://localhost/a"}],
    ],
    ids=str,
)
def test_what_is_no_list_of_files_is_400(daemon, host, value):
    answer = send(daemon, {"openaiFileIdRefs": value})
    assert answer.status == 400 and len(answer.body) > 10
    assert files(daemon) == {}


def background(function, *arguments):
    """A list that gets what the function returns, which waits for the operator while the test types."""
    found = []
    threading.Thread(target=lambda: found.append(function(*arguments)), daemon=True).start()
    return found


def question(daemon):
    """What the operator is asked next, the prompt typed at."""
    return daemon.expect("n REASON", 15) + daemon.expect(": ")


def test_the_host_is_named_and_nothing_is_fetched_before_yes(begin, host):
    daemon = begin(tty=True)
    (daemon.directory / "two").write_text("before")
    found = background(send, daemon, refs(("one", host.link("/a")), ("two", host.link("/chunked"))))
    shown = question(daemon)
    assert "send-file asked for by 127.0.0.1" in shown and "https://localhost:%d/a" % host.port in shown
    assert str(daemon.directory / "one") in shown and "new" in shown
    assert host.asked == []
    daemon.type("y\n")
    shown = question(daemon)
    assert "https://localhost:%d/chunked" % host.port in shown and "OVERWRITES" in shown
    assert host.asked == ["/a"] and not (daemon.directory / "one").exists()
    daemon.type("y\n")
    assert wait_for(lambda: found, 30)[0].status == 200
    assert files(daemon) == {"one": DATA, "two": b"abcde"}


@pytest.mark.parametrize("answers", [["n not this"], ["y", "n not this"]], ids=["first", "second"])
def test_a_denial_of_one_stores_none(begin, host, answers):
    daemon = begin(tty=True)
    found = background(send, daemon, refs(("one", host.link("/a")), ("two", host.link("/b"))))
    for answer in answers:
        question(daemon)
        daemon.type(answer + "\n")
    answer = wait_for(lambda: found, 30)[0]
    assert answer.status == 403 and b"not this" in answer.body
    assert files(daemon) == {} and len(host.asked) == len(answers) - 1


def test_the_link_s_signature_is_shown_to_nobody(begin, host):
    """It opens the file for who has it."""
    daemon = begin("-log", "audit", tty=True)
    found = background(send, daemon, refs(("one", host.link("/missing"))))
    shown = question(daemon)
    daemon.type("y\n")
    answer = wait_for(lambda: found, 30)[0]
    wait_for(lambda: b"send-file" in (daemon.directory / "audit").read_bytes())
    seen = shown + answer.body.decode() + (daemon.directory / "audit").read_text() + daemon.errors()
    assert answer.status == 400 and "OPENSESAME" not in seen


def call(daemon, arguments):
    """The result of the MCP tool send-file."""
    params = {"name": "send-file", "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    answer = daemon.request("POST", "/mcp", json.dumps(message), {"Content-Type": "application/json"})
    return json.loads(answer.body.decode())["result"]


def test_a_file_that_chatgpt_hands_to_the_tool_is_stored(daemon, host):
    nameless = {"download_url": host.link("/chunked"), "file_id": "file-Abc", "mime_type": "text/plain"}
    file = dict(nameless, file_name="named")
    assert call(daemon, {"file": file})["isError"] is False
    assert call(daemon, {"file": file, "filename": "renamed"})["isError"] is False
    assert call(daemon, {"file": nameless})["isError"] is False
    assert files(daemon) == dict.fromkeys(("named", "renamed", "file-Abc"), b"abcde")


def test_a_file_that_the_tool_can_not_fetch_is_an_error_that_says_which_one(daemon, host):
    found = call(daemon, {"file": {"download_url": host.link("/cut"), "file_id": "1", "file_name": "bad"}})
    assert found["isError"] is True and "bad" in found["content"][0]["text"]
    assert files(daemon) == {}


# What else an action sends


@pytest.mark.parametrize("body", [None, b"", b"{}"], ids=["none", "empty", "an empty object"])
def test_a_command_in_the_query_needs_no_body(nosafe, body):
    """Clients made from the schema name the type of a body also where they send none."""
    answer = nosafe.request("POST", "/execcmd?cmd=echo+hi", body, {"Content-Type": "application/json"})
    assert (answer.status, answer.body) == (200, b"hi\n")


@pytest.mark.parametrize(
    "value, stored",
    [
        ({"filename": "json", "content": "a\r\n\u20ac"}, "a\r\n\u20ac".encode()),
        ({"filename": "../json", "content_base64": base64.b64encode(DATA[:500000]).decode()}, DATA[:500000]),
        ({"filename": "json", "content": ""}, b""),
    ],
    ids=["text", "base64", "empty"],
)
def test_send_file_takes_a_file_in_json(nosafe, value, stored):
    answer = send(nosafe, value)
    assert answer.status == 200 and b"json" in answer.body
    assert (nosafe.directory / "json").read_bytes() == stored


# Files that go back


FILES = [("data.bin", None), ("a.png", "image/png"), ("a.pdf", "application/pdf"), ("no \u20ac end", None)]


@pytest.mark.parametrize("name, kind", FILES, ids=[name for name, _ in FILES])
def test_a_binary_file_goes_back_as_chatgpt_takes_it(nosafe, name, kind):
    (nosafe.directory / "sub").mkdir(exist_ok=True)
    (nosafe.directory / "sub" / name).write_bytes(DATA)
    quoted = "".join("%%%02X" % byte for byte in name.encode())
    answer = nosafe.request("GET", "/get-file?openaiFileResponse=true&filename=sub/" + quoted)
    assert answer.status == 200 and answer.headers["Content-Type"] == "application/json"
    (member,) = json.loads(answer.body.decode())["openaiFileResponse"]
    assert sorted(member) == ["content", "mime_type", "name"]
    assert base64.b64decode(member["content"]) == DATA
    assert (member["name"], member["mime_type"]) == (name, kind or "application/octet-stream")


@pytest.mark.parametrize("query", ["", "&openaiFileResponse=false"])
def test_text_goes_back_as_it_is(nosafe, query):
    (nosafe.directory / "text").write_bytes("a\r\n\u20ac".encode())
    answer = nosafe.request("GET", "/get-file?filename=text" + query)
    assert (answer.status, answer.body) == (200, "a\r\n\u20ac".encode())


def test_a_file_too_big_for_it_is_413_and_names_the_url_that_fetches_it(nosafe):
    (nosafe.directory / "just.bin").write_bytes(b"\0" * INLINE)
    (nosafe.directory / "too big.bin").write_bytes(b"\0" * (INLINE + 1))
    answer = nosafe.request("GET", "/get-file?openaiFileResponse=true&filename=just.bin")
    (member,) = json.loads(answer.body.decode())["openaiFileResponse"]
    assert answer.status == 200 and len(base64.b64decode(member["content"])) == INLINE
    answer = nosafe.request("GET", "/get-file?openaiFileResponse=true&filename=too%20big.bin")
    assert answer.status == 413
    path = re.search(r"http://127\.0\.0\.1:%d(/\S+)" % nosafe.port, answer.body.decode()).group(1)
    answer = nosafe.request("GET", path)
    assert answer.status == 200 and len(answer.body) == INLINE + 1


def test_a_missing_file_is_404(nosafe):
    assert nosafe.request("GET", "/get-file?openaiFileResponse=true&filename=nothing").status == 404


def test_the_operator_is_asked_for_it_too(start):
    daemon = start("noauth", tty=True)
    (daemon.directory / "there").write_bytes(b"\xff")
    found = background(daemon.request, "GET", "/get-file?openaiFileResponse=true&filename=there")
    assert str(daemon.directory / "there") in question(daemon)
    daemon.type("n private\n")
    answer = wait_for(lambda: found, 30)[0]
    assert answer.status == 403 and b"private" in answer.body and b"/w==" not in answer.body


@pytest.mark.parametrize("path", ["/silent", "/drip"])
def test_the_end_does_not_wait_for_a_link_and_leaves_nothing_of_its_file(begin, host, path):
    daemon = begin("-nosafe")
    body = json.dumps(refs(("f", host.link(path)))).encode()
    head = b"POST /send-file HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d"
    with daemon.connect() as sock:
        sock.sendall(head % len(body) + b"\r\n\r\n" + body)
        wait_for(lambda: os.listdir(str(daemon.directory)), what="the temporary file")
        assert daemon.stop() == 0
    assert os.listdir(str(daemon.directory)) == []


def test_the_host_of_files_may_be_written_in_capitals(start, host, authority):
    daemon = start("noauth", "-nosafe", "-filehost", "LOCALHOST", env={"SSL_CERT_FILE": str(authority[1])})
    assert send(daemon, refs(("one", host.link("/a")))).status == 200


def test_the_address_that_was_looked_at_is_the_one_that_is_asked(monkeypatch):
    """A name that leads elsewhere at the second look would reach what is private."""
    asked = []

    def connect(address, *_):
        asked.append(address)
        raise OSError("not in a test")

    public = "93.184.215.14"
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (public, 443))])
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(OSError):
        list(mycodeinterpreter.download("https://files.oaiusercontent.com/x", ["oaiusercontent.com"], 5))
    assert asked == [(public, 443)]
