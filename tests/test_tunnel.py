"""The way in from outside: the real ngrok SDK against an edge on loopback (ngrok_edge.py), and nginx in its place.

What is asked here goes to the public side, with the public name as Host, as a stranger's request would.
"""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import Daemon, wait_for

pytest.importorskip("ngrok")
pytest.importorskip("trustme")

from ngrok_edge import Edge  # noqa: E402

NAME = "tests.ngrok.example"
URL = "https://" + NAME
TOKEN = "2token3OF4the5tests6not7to8be9shown"
CLIENT = "203.0.113.7"  # as the edge tells it
FORGED = "198.51.100.66"
MIB = 1 << 20
SOON = 4.0  # seconds for an end that is to take 2 on an idle machine
BACK = 15.0  # seconds for a session to come back that is tried again after 2.5
PROMPT = "\ny = yes"
LOST, AGAIN = re.compile(r"tunnel.*\blost\b"), re.compile(r"tunnel.*\bback\b")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def to_edge(edge, *options):
    """The options that make the SDK dial the edge."""
    options = ("server_addr=" + edge.server_addr, "root_cas=" + edge.root_cas) + options
    return [word for option in options for word in ("-ngrok", option)]


def public(address, method, target, body=None, headers=None, host=NAME):
    """One request to the public side of an edge, or of another proxy: (status, headers, body)."""
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=30)) as connection:
        connection.request(method, target, body, dict({"Host": host}, **(headers or {})))
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def run(address, command, host=NAME, headers=None):
    """A command's answer through the public side: (status, output)."""
    headers = dict({"Content-Type": "application/json"}, **(headers or {}))
    status, _, body = public(address, "POST", "/execcmd", json.dumps({"cmd": command}), headers, host)
    return status, body.decode()


class Asking(threading.Thread):
    """A command asked for through the public side while the test goes on; `answer` is (status, output) or an error."""

    def __init__(self, *arguments, **options):
        super().__init__(daemon=True)
        self.arguments, self.options, self.answer = arguments, options, None
        self.start()

    def run(self):
        try:
            self.answer = run(*self.arguments, **self.options)
        except (OSError, http.client.HTTPException) as error:
            self.answer = error

    def wait(self):
        self.join(30)
        return self.answer


def hasty_client(address, host):
    """A client that has asked for `touch ran`; the test closes it."""
    client = socket.create_connection(address)
    head = "POST /execcmd?cmd=touch%20ran HTTP/1.1\r\nContent-Length: 0\r\nHost: {}\r\n\r\n"
    client.sendall(head.format(host).encode())
    return client


def multipart(name, blocks):
    """(headers, body in blocks) of an upload of one file; `blocks` is a function, as they are wanted twice."""
    head = ('--b\r\nContent-Disposition: form-data; name="document"; filename="%s"\r\n\r\n' % name).encode()
    tail = b"\r\n--b--\r\n"
    length = len(head) + sum(map(len, blocks())) + len(tail)
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(length)}

    def body():
        yield head
        for block in blocks():
            yield block
        yield tail

    return headers, body()


def unlike_blocks(count):
    """Blocks of a MiB, no two of them alike."""
    seed = os.urandom(MIB - 8)

    def blocks():
        return (number.to_bytes(8, "big") + seed for number in range(count))

    return blocks


def digest(blocks):
    total = hashlib.sha256()
    for block in blocks:
        total.update(block)
    return total.hexdigest()


def blocks_of(file):
    return iter(lambda: file.read(MIB), b"")


def basic(credentials):
    return {"Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}


def names(daemon):
    """What lies in its working directory."""
    return sorted(os.listdir(str(daemon.directory)))


def next_question(daemon):
    """Waits for a question and returns it."""
    return daemon.expect(PROMPT) + daemon.expect(": ")


def log_of(daemon):
    """All that it has said on the terminal so far."""
    errors = daemon.errors()
    return daemon.history.replace("\r\n", "\n") if daemon.tty else errors


def told(daemon, pattern, count=1):
    """Waits until the log has so many lines like that."""
    wait_for(lambda: len(pattern.findall(log_of(daemon))) >= count, BACK, pattern.pattern)


@pytest.fixture
def edge():
    with Edge() as one:
        yield one


@pytest.fixture
def tunneled(start, edge):
    """A function that starts the program behind the edge."""

    def start_one(*arguments, **options):
        ngrok = options.pop("ngrok", ())
        environment = {"NGROK_AUTHTOKEN": TOKEN}
        return start(*arguments + tuple(to_edge(edge, *ngrok)), env=environment, **options)

    return start_one


def one_daemon(directory, edge, *arguments):
    directory.mkdir()
    arguments += ("-port", str(free_port()), "-log", str(directory.parent / "audit")) + tuple(to_edge(edge))
    return Daemon(arguments, directory, env={"NGROK_AUTHTOKEN": TOKEN}).ready()


@pytest.fixture(scope="module")
def open_tunnel(tmp_path_factory):
    """(edge, daemon with noauth -nosafe) for the tests that leave both as they were."""
    with Edge() as edge:
        daemon = one_daemon(tmp_path_factory.mktemp("tunnel") / "work", edge, "noauth", "-nosafe")
        yield edge, daemon
        daemon.close()


@pytest.fixture(scope="module")
def keyed_tunnel(tmp_path_factory):
    """The same with me:sesame."""
    with Edge() as edge:
        daemon = one_daemon(tmp_path_factory.mktemp("keyed") / "work", edge, "me:sesame", "-nosafe")
        yield edge, daemon
        daemon.close()


def secret_path(daemon):
    """The path of the secret URL, as start-up prints it."""
    return re.search(r"^secret URL: %s(/[0-9a-f]{32})$" % re.escape(URL), daemon.output(), re.M).group(1)


# Start-up


def test_start_up_tells_the_urls_in_order(open_tunnel):
    _, daemon = open_tunnel
    lines = daemon.output().split("\n")
    wanted = [
        "tunnel created: " + URL,
        "OpenAPI schema at %s/openapi.json" % URL,
        "MCP endpoint at %s/mcp" % URL,
        "Starting server at " + URL,
    ]
    assert [line for line in lines if line in wanted] == wanted
    assert lines[0] == wanted[0] and lines[-2:] == [wanted[-1], ""]
    assert "NGROK_AUTHTOKEN" not in daemon.output()  # as where there is no public URL


def test_the_token_is_what_the_edge_gets(open_tunnel):
    edge, _ = open_tunnel
    assert edge.authtokens == [TOKEN] and len(edge.binds) == 1


def test_an_edge_that_answers_slowly_is_waited_for(edge, tunneled):
    edge.delay = 0.7
    daemon = tunneled("noauth", "-nosafe")
    assert daemon.output().startswith("tunnel created: " + URL)
    assert run(edge.public, "echo slow") == (200, "slow\n")


WARNINGS = [(["noauth"], True), (["noauth", "-nosafe"], True), (["me:sesame", "-nosafe"], True), (["me:sesame"], False)]


@pytest.mark.parametrize("arguments, warned", WARNINGS, ids=[" ".join(arguments) for arguments, _ in WARNINGS])
def test_strangers_at_the_public_door_are_warned_of(edge, tunneled, arguments, warned):
    daemon = tunneled(*arguments, tty=True)
    if warned:
        daemon.expect("*** WARNING: ")
        assert ("NOBODY IS ASKED" in daemon.expect(" ***")) == ("-nosafe" in arguments)
    assert daemon.stop() == 0
    assert ("WARNING" in daemon.history) == warned


TRIPWIRE = "import os\nopen(os.environ['TRIPWIRE'], 'w').close()\nraise ImportError('nothing but a trip wire')\n"


@pytest.mark.parametrize("set_to, imported", [(None, False), ("", False), (TOKEN, True)], ids=["unset", "empty", "set"])
def test_ngrok_is_imported_only_where_the_token_is_set(start, tmp_path, set_to, imported):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "ngrok.py").write_text(TRIPWIRE)
    environment = {"PYTHONPATH": str(tmp_path / "path"), "TRIPWIRE": str(tmp_path / "tripped")}
    if set_to is not None:
        environment["NGROK_AUTHTOKEN"] = set_to
    daemon = start("noauth", "-nosafe", "-ngrok", "domain=x.example", env=environment, ready=False)
    if imported:
        assert daemon.process.wait(15) == 1
    else:
        assert daemon.ready().stop() == 0
    assert (tmp_path / "tripped").exists() == imported


# Through the tunnel

WAYS = ["basic", "secret URL"]


def way_in(daemon, way):
    """(what goes before a path, headers) of one of the WAYS."""
    return (secret_path(daemon), {}) if way == "secret URL" else ("", basic("me:sesame"))


@pytest.mark.parametrize("way", WAYS)
def test_each_endpoint_serves_through_the_tunnel(keyed_tunnel, way):
    edge, daemon = keyed_tunnel
    before, headers = way_in(daemon, way)
    posted = dict(headers, **{"Content-Type": "application/json"})
    status, _, body = public(edge.public, "POST", before + "/execcmd?cmd=echo%20hello", b"", headers)
    assert (status, body) == (200, b"hello\n")
    sent, body = multipart("sent.txt", lambda: [b"as it is\r\n\0"])
    status, _, body = public(edge.public, "POST", before + "/send-file", body, dict(headers, **sent))
    assert (status, body) == (200, b"stored sent.txt, 11 bytes\n")
    status, _, body = public(edge.public, "GET", before + "/get-file?filename=sent.txt", None, headers)
    assert (status, body) == (200, b"as it is\r\n\0")
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    message["params"] = {"name": "execcmd", "arguments": {"cmd": "echo by tool"}}
    status, _, body = public(edge.public, "POST", before + "/mcp", json.dumps(message), posted)
    assert status == 200 and json.loads(body.decode())["result"]["content"][0]["text"] == "by tool\n"
    status, _, body = public(edge.public, "GET", before + "/openapi.json", None, headers)
    assert status == 200 and json.loads(body.decode())["servers"] == [{"url": URL + before}]


def test_the_schema_is_open_and_names_the_public_url(keyed_tunnel):
    edge, _ = keyed_tunnel
    status, _, body = public(edge.public, "GET", "/openapi.json")
    assert status == 200 and json.loads(body.decode())["servers"] == [{"url": URL}]


@pytest.mark.parametrize("target", ["/execcmd?cmd=touch%20ran", "/mcp", "/0123456789abcdef0123456789abcdef/mcp"])
def test_nobody_gets_in_without_the_key(keyed_tunnel, target):
    edge, daemon = keyed_tunnel
    assert public(edge.public, "POST", target, b"", basic("me:guess"))[0] == 401
    assert "ran" not in names(daemon)


def test_a_large_file_goes_up_and_down_byte_for_byte(open_tunnel):
    edge, daemon = open_tunnel
    blocks = unlike_blocks(100)
    headers, body = multipart("large", blocks)
    assert public(edge.public, "POST", "/send-file", body, headers)[0] == 200
    wanted = digest(blocks())
    with open(str(daemon.directory / "large"), "rb") as file:
        assert digest(blocks_of(file)) == wanted
    with contextlib.closing(http.client.HTTPConnection(*edge.public, timeout=30)) as connection:
        connection.request("GET", "/get-file?filename=large", headers={"Host": NAME})
        response = connection.getresponse()
        assert int(response.headers["Content-Length"]) == 100 * MIB
        assert digest(blocks_of(response)) == wanted
    os.unlink(str(daemon.directory / "large"))


def test_twenty_requests_are_served_at_once(open_tunnel):
    """Each command ends when all twenty have begun."""
    edge, daemon = open_tunnel
    (daemon.directory / "begun").mkdir()
    command = "touch begun/%d; until [ $(ls begun | wc -l) -ge 20 ]; do sleep 0.1; done; echo %d"
    asking = [Asking(edge.public, command % (number, number)) for number in range(20)]
    assert [one.wait() for one in asking] == [(200, "%d\n" % number) for number in range(20)]
    shutil.rmtree(str(daemon.directory / "begun"))


def test_many_requests_on_one_public_connection(open_tunnel):
    edge, _ = open_tunnel
    with contextlib.closing(http.client.HTTPConnection(*edge.public, timeout=30)) as connection:
        for number in range(10):
            connection.request("POST", "/execcmd?cmd=echo%%20%d" % number, b"", {"Host": NAME})
            assert connection.getresponse().read() == b"%d\n" % number


# Who asks, and under which name


@pytest.mark.parametrize("host", [NAME, NAME.upper(), NAME + ":443", NAME + "."])
def test_the_name_of_the_tunnel_is_answered_to(open_tunnel, host):
    edge, _ = open_tunnel
    assert public(edge.public, "GET", "/openapi.json", host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", NAME + ".evil.example", "x." + NAME, "ngrok.example", "example"])
def test_no_other_name_is_answered_to(open_tunnel, host):
    edge, daemon = open_tunnel
    assert public(edge.public, "POST", "/execcmd?cmd=touch%20ran", b"", host=host)[0] == 421
    assert public(("127.0.0.1", daemon.port), "POST", "/execcmd?cmd=touch%20ran", b"", host=host)[0] == 421
    assert "ran" not in names(daemon)


def test_a_page_of_the_public_name_gets_in_and_no_other(open_tunnel):
    edge, daemon = open_tunnel
    for origin, status in ((URL, 200), ("https://evil.example", 403), ("null", 403)):
        assert run(edge.public, "true", headers={"Origin": origin})[0] == status


@pytest.mark.parametrize("sent", [(), (FORGED,), (FORGED, "127.0.0.1"), (FORGED + ", 127.0.0.1",)])
@pytest.mark.parametrize("client", [CLIENT, "2001:db8::7"])
def test_the_client_in_the_log_is_the_one_that_the_edge_saw(open_tunnel, client, sent):
    edge, daemon = open_tunnel
    marker = os.urandom(8).hex()
    edge.client_addr = client
    try:
        with contextlib.closing(http.client.HTTPConnection(*edge.public, timeout=30)) as connection:
            connection.putrequest("POST", "/execcmd?cmd=echo%20" + marker, skip_host=True)
            for name, value in [("Host", NAME), ("Content-Length", "0")] + [("X-Forwarded-For", one) for one in sent]:
                connection.putheader(name, value)
            connection.endheaders()
            assert connection.getresponse().read().decode() == marker + "\n"
    finally:
        edge.client_addr = CLIENT
    logged_as(daemon, marker, client)


def logged_as(daemon, marker, client):
    """Waits for a request in the log and the audit trail, and checks whose it is said to be."""
    line = wait_for(lambda: re.search(r".*echo %s.*" % marker, daemon.errors()), what="the log").group()
    assert " %s execcmd " % client in line and FORGED not in line
    with open(str(daemon.directory.parent / "audit")) as file:
        assert [json.loads(entry)["client"] for entry in file if marker in entry] == [client]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "localhost:8000"])
def test_a_forwarded_address_is_not_believed_at_the_local_door(open_tunnel, host):
    _, daemon = open_tunnel
    marker = os.urandom(8).hex()
    local = ("127.0.0.1", daemon.port)
    assert run(local, "echo " + marker, host, {"X-Forwarded-For": FORGED}) == (200, marker + "\n")
    logged_as(daemon, marker, "127.0.0.1")


def test_the_prompt_names_the_client_that_the_edge_saw(edge, tunneled):
    daemon = tunneled("noauth", tty=True)
    asking = Asking(edge.public, "echo asked", headers={"X-Forwarded-For": FORGED})
    assert "execcmd asked for by %s\n" % CLIENT in next_question(daemon)
    daemon.type("y\n")
    assert asking.wait() == (200, "asked\n")
    asking = Asking(("127.0.0.1", daemon.port), "echo asked", "localhost", headers={"X-Forwarded-For": FORGED})
    assert "execcmd asked for by 127.0.0.1\n" in next_question(daemon)
    daemon.type("n\n")
    assert asking.wait()[0] == 403
    assert daemon.stop() == 0
    assert FORGED not in daemon.history


def test_a_prompt_whose_public_client_hangs_up_is_withdrawn(edge, tunneled):
    daemon = tunneled("noauth", tty=True)
    client = hasty_client(edge.public, NAME)
    assert "touch ran" in next_question(daemon)
    client.close()
    daemon.expect("withdrawn")
    daemon.type("y\n")
    asking = Asking(edge.public, "touch ran, too")
    next_question(daemon)
    daemon.type("n\n")
    assert asking.wait()[0] == 403
    assert names(daemon) == []


# Secrets


def test_the_token_is_nowhere_to_be_read(edge, tunneled, tmp_path):
    audit = tmp_path / "audit"
    daemon = tunneled("me:sesame", "-nosafe", "-log", audit, tty=True)
    status, environment = run(edge.public, "env", headers=basic("me:sesame"))
    assert status == 200 and "PATH=" in environment
    assert run(edge.public, "false", headers=basic("me:guess"))[0] == 401
    edge.drop()  # what the SDK says of its sessions is read, too
    wait_for(lambda: len(edge.authtokens) > 1, BACK, "the next session")
    assert daemon.stop() == 0
    for text in (environment, daemon.history, daemon.output(), audit.read_text()):
        assert TOKEN not in text and "NGROK_AUTHTOKEN" not in text
    assert "sesame" not in daemon.history + audit.read_text()


# What the SDK does badly


def fails(daemon, *statuses):
    """Waits for the end of a program that can't start, and returns its one line."""
    status = daemon.process.wait(15)
    errors = daemon.errors()
    assert status in statuses, errors
    assert daemon.output() == ""
    assert errors.startswith("error: ") and errors.count("\n") == 1 and errors.endswith("\n"), errors
    assert not re.search(r"panic|Traceback|RUST_BACKTRACE|tokio|\.rs:", errors) and TOKEN not in errors
    return errors


REFUSED = [
    # what refuses, ngrok's code and words, what to do about it
    ("auth_error", "105", "The authtoken %s is not an ngrok authtoken." % TOKEN, "copy"),
    ("auth_error", "107", "The authtoken was revoked.\nMake another.", "another"),
    ("auth_error", "108", "Your account is limited to 1 simultaneous ngrok agent sessions.", "stop"),
    ("bind_error", "314", "Only paid plans may bind custom domains.", "domain"),
    ("bind_error", "334", "The endpoint 'https://%s' is already online." % NAME, "stop"),
    ("bind_error", "9999", "Something that nobody has thought of.", "https://ngrok.com/docs/errors"),
]


@pytest.mark.parametrize("where, code, words, hint", REFUSED, ids=[one[1] for one in REFUSED])
def test_what_ngrok_refuses_is_told_in_one_line(edge, tunneled, where, code, words, hint):
    setattr(edge, where, (words, "ERR_NGROK_" + code))
    line = fails(tunneled("noauth", ready=False), 1)
    assert "ERR_NGROK_%s" % code in line and hint in line.partition("ERR_NGROK_")[2]
    assert " ".join(words.replace(TOKEN, "***").split()) in line


NONSENSE = [
    # an option, what the line tells
    ("server_addr=localhost:1", "ngrok"),
    ("server_addr=nonsense", "server_addr"),
    ("server_addr=http://localhost:1", "server_addr"),
    ("server_addr=localhost:99999", ""),
    ("server_addr=..:1", ""),
    ("server_addr=", "server_addr"),
    ("root_cas=gone.pem", "gone.pem"),
    ("root_cas=text.pem", ""),
    ("root_cas=empty.pem", ""),
    ("root_cas=garbage.pem", ""),
    ("root_cas=other.pem", ""),
    ("root_cas=.", ""),
    ("basic_auth=nonsense", ""),
    ("request_header_add=nonsense", ""),
    ("schemes=nonsense", ""),
    ("proxy_proto=nonsense", ""),
    ("oidc_issuer_url=https://oidc.example", "oidc_client_id"),
    ("compression=nonsense", "compression"),
]


@pytest.mark.parametrize("option, told_of", NONSENSE, ids=[option for option, _ in NONSENSE])
def test_an_option_that_fails_fails_in_one_line(edge, start, tmp_path, option, told_of):
    import trustme

    directory = tmp_path / "folder"
    directory.mkdir()
    (directory / "text.pem").write_text("no certificate\n")
    (directory / "empty.pem").write_text("")
    (directory / "garbage.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    trustme.CA().cert_pem.write_to_path(str(directory / "other.pem"))
    key = option.partition("=")[0]
    good = [one for one in to_edge(edge)[1::2] if not one.startswith(key + "=")]
    options = [word for one in good + [option] for word in ("-ngrok", one)]
    arguments = dict(directory=directory, env={"NGROK_AUTHTOKEN": TOKEN}, ready=False)
    assert told_of in fails(start("noauth", *options, **arguments), 1, 2)
    assert edge.authtokens == [] or not option.startswith(("server_addr", "root_cas"))


@pytest.mark.parametrize("option", ["doman=x.example", "authtoken=x", "addr=1", "Domain=x.example", "domain", "=x"])
def test_an_unknown_option_is_refused_by_name(start, option):
    """With a token or without one: it is wrong before it is of use."""
    environment = {"NGROK_AUTHTOKEN": TOKEN} if "=" in option else {}
    line = fails(start("noauth", "-ngrok", option, env=environment, ready=False), 2)
    assert "-ngrok " + option.partition("=")[0] in line


def test_a_domain_asked_for_is_bound(edge, tunneled):
    daemon = tunneled("noauth", "-nosafe", ngrok=["domain=mine.example"])
    options = edge.binds[-1]["Opts"]
    assert "mine.example" in (options["Hostname"], options.get("Domain"))
    assert daemon.output().startswith("tunnel created: https://mine.example\n")
    assert public(edge.public, "GET", "/openapi.json", host="mine.example")[0] == 200
    assert public(edge.public, "GET", "/openapi.json")[0] == 421


def test_options_reach_the_edge(edge, tunneled):
    networks = ["allow_cidr=192.0.2.0/24", "allow_cidr=2001:db8::/32"]
    tunneled("noauth", ngrok=networks + ["compression=true", "metadata=a=b"])
    bind = edge.binds[-1]
    assert bind["Opts"]["IPRestriction"] == {"allow_cidrs": ["192.0.2.0/24", "2001:db8::/32"]}
    assert bind["Opts"]["Compression"] == {} and bind["Extra"]["Metadata"] == "a=b"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "0.0.0.0", "::1"])
def test_the_tunnel_leads_to_where_it_listens(edge, tunneled, host):
    if host == "::1":
        with socket.socket(socket.AF_INET6) as sock:
            try:
                sock.bind((host, 0))
            except OSError:
                pytest.skip("this machine has no IPv6 loopback")
    tunneled("noauth", "-nosafe", "-host", host)
    assert run(edge.public, "echo here") == (200, "here\n")


def test_ngrok_learns_nothing_of_this_machine(open_tunnel):
    """Left to itself the SDK tells the host's name, the interpreter's path and the process id."""
    edge, daemon = open_tunnel
    bind = json.dumps(edge.binds)
    assert edge.binds[0]["ForwardsTo"] == "mycodeinterpreter"
    for private in (socket.gethostname(), sys.executable, str(daemon.directory), "pid"):
        assert '"%s' % private not in bind and "/%s" % private.lstrip("/") not in bind


# A session that is lost


@pytest.mark.parametrize("tty", [False, True], ids=["to a file", "on a terminal"])
def test_a_session_that_is_lost_comes_back_and_the_log_tells_both(edge, tunneled, tty):
    daemon = tunneled("noauth", "-nosafe", tty=tty)
    for count in (1, 2):
        edge.drop()
        told(daemon, AGAIN, count)
        wait_for(lambda: edge.online, BACK, "the next session")
        assert run(edge.public, "echo again") == (200, "again\n")
    assert daemon.stop() == 0
    log = log_of(daemon)
    events = re.findall(r"tunnel.*\b(lost|back)\b", log)
    assert events == ["lost", "back"] * 2, log
    assert URL in re.search(r"tunnel.*\bback\b.*", log).group()
    assert {bind["Id"] for bind in edge.binds[1:]} == {"t2"}, "another endpoint, not the same again"
    assert daemon.output().count("tunnel created") == 1


def test_an_edge_that_is_away_for_a_while_is_come_back_to(edge, tunneled):
    daemon = tunneled("noauth", "-nosafe")
    edge.accepting = False
    edge.drop()
    told(daemon, LOST)
    time.sleep(0.5)  # until its attempts at 0 and 0.05 s have failed, which nothing tells from outside
    assert public(edge.public, "GET", "/openapi.json")[0] == 404  # ngrok's own, nobody is online
    assert public(("127.0.0.1", daemon.port), "GET", "/openapi.json", host="localhost")[0] == 200
    edge.accepting = True
    wait_for(lambda: edge.online, BACK, "the next session")
    status, _, body = public(edge.public, "GET", "/openapi.json")
    assert status == 200 and json.loads(body.decode())["servers"] == [{"url": URL}]
    told(daemon, AGAIN)
    assert re.findall(r"tunnel.*\b(lost|back)\b", log_of(daemon)) == ["lost", "back"]


def test_a_prompt_open_when_the_session_is_lost_is_withdrawn(edge, tunneled):
    daemon = tunneled("noauth", tty=True)
    asking = Asking(edge.public, "touch ran")
    next_question(daemon)
    edge.drop()
    daemon.expect("withdrawn")
    daemon.type("y\n")
    asking.wait()
    told(daemon, AGAIN)
    asking = Asking(edge.public, "echo again")
    next_question(daemon)
    daemon.type("y\n")
    assert asking.wait() == (200, "again\n")
    assert names(daemon) == []


def test_a_url_that_changes_is_followed(edge, tunneled):
    daemon = tunneled("me:sesame", "-nosafe")
    edge.url = "https://Another.ngrok.example"
    edge.drop()
    told(daemon, AGAIN)
    assert "https://another.ngrok.example" in log_of(daemon)
    secret = secret_path(daemon)
    for before in ("", secret):
        status, _, body = public(edge.public, "GET", before + "/openapi.json", host="another.ngrok.example")
        assert status == 200
        assert json.loads(body.decode())["servers"] == [{"url": "https://another.ngrok.example" + before}]
    assert public(edge.public, "GET", "/openapi.json", host=NAME)[0] == 421
    assert run(edge.public, "true", "another.ngrok.example", basic("me:sesame"))[0] == 200
    wait_for(lambda: " %s execcmd true " % CLIENT in daemon.errors(), what="the client's address in the log")


# A stream cut in the middle


def test_an_upload_that_is_cut_stores_nothing(edge, tunneled):
    daemon = tunneled("noauth", "-nosafe")
    (daemon.directory / "kept").write_bytes(b"as it was")
    edge.cut_after = 3 * MIB
    headers, body = multipart("kept", unlike_blocks(8))
    with contextlib.suppress(OSError, http.client.HTTPException):
        assert public(edge.public, "POST", "/send-file", body, headers)[0] != 200
    edge.cut_after = None
    wait_for(lambda: names(daemon) == ["kept"], what="the end of the upload")
    assert (daemon.directory / "kept").read_bytes() == b"as it was"
    assert run(edge.public, "cat kept") == (200, "as it was")


def test_a_download_that_is_cut_leaves_the_daemon_serving(edge, tunneled):
    daemon = tunneled("noauth", "-nosafe")
    with open(str(daemon.directory / "large"), "wb") as file:
        file.truncate(16 * MIB)
    edge.cut_after = 3 * MIB
    with pytest.raises((OSError, http.client.HTTPException)):
        public(edge.public, "GET", "/get-file?filename=large")
    edge.cut_after = None
    assert len(public(edge.public, "GET", "/get-file?filename=large")[2]) == 16 * MIB
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.errors()


# The end


def being_open(edge, daemon):
    """The tunnel is open, and a request is under way."""
    daemon.ready()
    asking = Asking(edge.public, "touch begun; sleep 30")
    wait_for((daemon.directory / "begun").exists, what="the command")
    return asking


def reconnecting(edge, daemon):
    """The session is lost and the edge hangs up on every attempt."""
    daemon.ready()
    edge.accepting = False
    edge.drop()


def silent(edge, daemon):
    """The tunnel is open, and the edge answers nothing any more."""
    daemon.ready()
    edge.delay = 60


def lost_and_silent(edge, daemon):
    """The session is lost, and the edge takes the next one but answers nothing."""
    silent(edge, daemon)
    edge.drop()
    wait_for(lambda: edge.sessions, BACK, "the next session")


def silent_from_the_start(edge, daemon):
    """The tunnel is not open yet, and the edge does not answer."""
    edge.delay = 60
    wait_for(lambda: edge.sessions, what="a session")
    assert daemon.output() == ""


@pytest.mark.parametrize("how", ["SIGTERM", "typed"])
@pytest.mark.parametrize("when", [being_open, reconnecting, silent, lost_and_silent, silent_from_the_start])
def test_it_ends_at_any_moment(edge, tunneled, when, how):
    edge.delay = 60 if when is silent_from_the_start else 0
    daemon = tunneled("noauth", "-nosafe", tty=True, ready=False)
    when(edge, daemon)
    began = time.monotonic()
    daemon.type("\x03") if how == "typed" else daemon.process.send_signal(signal.SIGTERM)
    while daemon.process.poll() is None:
        assert time.monotonic() - began < SOON, "it does not end"
        daemon.read_screen(0.02)
    assert daemon.process.returncode == 0
    while daemon.read_screen(0.05):
        pass
    assert not re.search(r"panic|Traceback|Exception|core dumped|[Ff]atal|RUST", daemon.history), daemon.history


def test_an_end_takes_the_endpoint_off_line(edge, tunneled):
    daemon = tunneled("noauth", "-nosafe")
    assert daemon.stop() == 0
    wait_for(lambda: not edge.online, what="the edge to see the end")
    assert public(edge.public, "GET", "/openapi.json")[0] == 404
    assert not LOST.search(log_of(daemon)), "an end that was asked for is no loss"


# -url: something else tunnels

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
SHELL = "shell.example"
CONFIGURATION = """
master_process off;
pid %(directory)s/nginx.pid;
error_log %(directory)s/error.log;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path %(directory)s/body;
    proxy_temp_path %(directory)s/proxy;
    fastcgi_temp_path %(directory)s/fastcgi;
    uwsgi_temp_path %(directory)s/uwsgi;
    scgi_temp_path %(directory)s/scgi;
    server {
        listen 127.0.0.1:%(port)d;
        client_max_body_size 0;
        location / {
            proxy_pass http://127.0.0.1:%(to)d;
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_http_version 1.1;
            proxy_request_buffering %(buffering)s;
            proxy_buffering %(buffering)s;
        }
    }
}
"""


@pytest.fixture(params=["off", "on"], ids=["unbuffered", "buffered"])
def nginx(request, tmp_path):
    """(address of an nginx, port that it passes requests to)."""
    if not NGINX:
        pytest.skip("nginx is missing; apt install nginx-light")
    directory = tmp_path / "nginx"
    directory.mkdir()
    port, to = free_port(), free_port()
    facts = dict(directory=directory, port=port, to=to, buffering=request.param)
    (directory / "nginx.conf").write_text(CONFIGURATION % facts)
    command = [NGINX, "-p", str(directory), "-c", str(directory / "nginx.conf"), "-g", "daemon off;"]
    with open(str(directory / "output"), "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def listens():
        assert process.poll() is None, (directory / "output").read_text()
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listens, what="nginx")
        yield ("127.0.0.1", port), to
    finally:
        process.terminate()
        process.wait(10)


def test_behind_another_proxy_the_url_the_name_and_the_client_are_right(start, nginx):
    address, port = nginx
    daemon = start("me:sesame", "-url", "https://%s/" % SHELL, "-port", str(port), tty=True)
    assert daemon.output().startswith("OpenAPI schema at https://%s/openapi.json\n" % SHELL)
    secret = re.search(r"^secret URL: https://%s(/\w+)$" % SHELL, daemon.output(), re.M).group(1)
    for before in ("", secret):
        status, _, body = public(address, "GET", before + "/openapi.json", host=SHELL)
        assert status == 200 and json.loads(body.decode())["servers"] == [{"url": "https://%s%s" % (SHELL, before)}]
    assert public(address, "GET", "/openapi.json", host="evil.example")[0] == 421
    headers = dict(basic("me:sesame"), **{"X-Forwarded-For": FORGED})
    asking = Asking(address, "echo asked", SHELL, headers)
    assert "execcmd asked for by 127.0.0.1\n" in next_question(daemon)  # whom nginx saw
    daemon.type("y\n")
    assert asking.wait() == (200, "asked\n")
    assert daemon.stop() == 0
    assert FORGED not in daemon.history


def test_behind_another_proxy_the_last_forwarded_address_counts(start):
    """As the proxy adds it: sent by hand, for nginx on loopback only ever sees loopback."""
    daemon = start("noauth", "-nosafe", "-url", "https://" + SHELL)
    forwarded = {"X-Forwarded-For": "%s, %s" % (FORGED, CLIENT)}
    assert run(("127.0.0.1", daemon.port), "true", SHELL, forwarded)[0] == 200
    wait_for(lambda: " %s execcmd true " % CLIENT in daemon.errors(), what="the log")
    assert run(("127.0.0.1", daemon.port), "false", "localhost", forwarded)[0] == 200
    wait_for(lambda: " 127.0.0.1 execcmd false " in daemon.errors(), what="the log")
    assert FORGED not in daemon.errors()


def test_behind_another_proxy_files_go_up_and_down(start, nginx):
    address, port = nginx
    daemon = start("noauth", "-nosafe", "-url", "https://" + SHELL, "-port", str(port))
    blocks = unlike_blocks(20)
    headers, body = multipart("large", blocks)
    assert public(address, "POST", "/send-file", body, headers, SHELL)[0] == 200
    status, _, body = public(address, "GET", "/get-file?filename=large", host=SHELL)
    assert status == 200 and digest([body]) == digest(blocks())
    with open(str(daemon.directory / "large"), "rb") as file:
        assert digest(blocks_of(file)) == digest(blocks())


def test_behind_another_proxy_a_prompt_whose_client_hangs_up_is_withdrawn(start, nginx):
    address, port = nginx
    daemon = start("noauth", "-url", "https://" + SHELL, "-port", str(port), tty=True)
    client = hasty_client(address, SHELL)
    next_question(daemon)
    client.close()
    daemon.expect("withdrawn")
    daemon.type("y\n")
    assert daemon.stop() == 0
    assert names(daemon) == []
