"""Who gets in: credentials, the secret URL, Host and Origin, and what the log says of it."""

import base64
import http.client
import json
import os
import re
import socket
import stat
from urllib.parse import quote

import pytest
from conftest import Answer, Daemon, wait_for

KEY = "a-right:key"  # USER ends at the first colon
ECHO = "/execcmd?cmd=echo%20in"
BREAK_IN = "/execcmd?cmd=touch%20broken-in"


def basic(user, key, scheme="Basic"):
    """A Basic header of str or bytes."""
    user, key = (part if isinstance(part, bytes) else part.encode("utf-8") for part in (user, key))
    return "%s %s" % (scheme, base64.b64encode(user + b":" + key).decode())


def call(daemon, target=ECHO, *headers, method="POST", host=None):
    """One request with headers of (name, value), str or bytes, as often as they are given."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in (("Host", host or "127.0.0.1"),) + headers:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def enter(daemon, *headers, **options):
    """Runs `echo in` with these headers; the status, 200 only where it ran."""
    answer = call(daemon, ECHO, *headers, **options)
    assert (answer.status == 200) == (answer.body == b"in\n")
    return answer.status


def token_of(daemon):
    """The secret URL's token, as the start-up lines tell it."""
    match = re.search(r"(?m)^secret URL: (https?://\S+)/([0-9a-f]{32})$", daemon.output())
    assert match, daemon.output()
    return match.group(2)


def wait_for_lines(count, read):
    """Waits until read() has so many lines and returns the last."""
    wait_for(lambda: read().count("\n") >= count, what="line %d of the log" % count)
    lines = read().split("\n")
    assert (len(lines), lines[-1]) == (count + 1, "")
    return lines[-2]


def assert_challenged(answer):
    """Asserts a plain 401."""
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert re.match(r"[ -~]{10,200}\n\Z", answer.body.decode())


def free_port():
    """A port that nobody listens on: with -url the start-up lines don't tell it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def module_daemon(tmp_path_factory, *arguments):
    """One daemon for this module's tests, to be used as a fixture's body."""
    directory, port = tmp_path_factory.mktemp("access") / "work", free_port()
    directory.mkdir()
    daemon = Daemon(list(arguments) + ["-nosafe", "-port", port], directory).ready()
    yield daemon
    daemon.close()
    assert not (directory / "broken-in").exists()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """AUTH is USER:KEY."""
    yield from module_daemon(tmp_path_factory, "me:" + KEY)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """AUTH is a bare KEY."""
    yield from module_daemon(tmp_path_factory, "right-key")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Something else tunnels to it."""
    yield from module_daemon(tmp_path_factory, "noauth", "-url", "https://Name.example")


# Credentials


@pytest.mark.parametrize(
    "value",
    [
        basic("me", KEY),
        basic("me", KEY, "basic"),
        basic("me", KEY, "BASIC"),
        "Bearer " + KEY,
        "bearer " + KEY,
    ],
)
def test_the_right_credentials_get_in(keyed, value):
    assert enter(keyed, ("Authorization", value)) == 200


@pytest.mark.parametrize("user", ["", "me", "anybody else", "\u00fc\u65e5", b"\xff\xfe", "x" * 10000])
def test_with_a_bare_key_any_user_name_goes(bare, user):
    assert enter(bare, ("Authorization", basic(user, "right-key"))) == 200
    assert_challenged(call(bare, BREAK_IN, ("Authorization", basic(user, "wrong-key"))))
    assert_challenged(call(bare, BREAK_IN, ("Authorization", basic(user, ""))))


RIGHT = basic("me", KEY)
WRONG = {
    "none": [],
    "empty": [""],
    "blank": [" "],
    "a wrong user": [basic("you", KEY)],
    "no user": [basic("", KEY)],
    "a user in capitals": [basic("ME", KEY)],
    "a wrong key": [basic("me", "wrong")],
    "no key": [basic("me", "")],
    "neither": [basic("", "")],
    "user and key exchanged": [basic(KEY, "me")],
    "a key in capitals": [basic("me", KEY.upper())],
    "the start of the key": [basic("me", KEY[:-1])],
    "more than the key": [basic("me", KEY + "x")],
    "the key and a space": [basic("me", KEY + " ")],
    "the key and a NUL": [basic("me", KEY + "\0")],
    "the key's second half": [basic("me", KEY.partition(":")[2])],
    "no colon": ["Basic " + base64.b64encode(b"me").decode()],
    "no colon, but the key": ["Basic " + base64.b64encode(b"right-key").decode()],
    "bytes that are not UTF-8": [basic(b"\xff", b"\xfe\x80")],
    "UTF-8 that is not ASCII": [basic("\u00fc", "\u65e5")],
    "no base64": ["Basic !!!!"],
    "base64 cut off": [RIGHT[:-1]],
    "base64 with more": [RIGHT + "!"],
    "base64 with a space within": [RIGHT[:12] + " " + RIGHT[12:]],
    "base64 with bytes above ASCII": ["Basic \u00e9\u00ff".encode("utf-8"), b"Basic \xff\xfe"],
    "the key in plain": ["Basic me:" + KEY],
    "Basic alone": ["Basic"],
    "Basic and a space": ["Basic "],
    "Bearer alone": ["Bearer"],
    "Bearer and a space": ["Bearer "],
    "a wrong Bearer": ["Bearer wrong"],
    "a Bearer with the user": ["Bearer me:" + KEY],
    "a Bearer in base64": ["Bearer" + RIGHT[5:]],
    "a Bearer of bytes above ASCII": ["Bearer \u00fc".encode("utf-8"), b"Bearer \xff"],
    "the start of a Bearer": ["Bearer " + KEY[:-1]],
    "more than a Bearer": ["Bearer " + KEY + "x"],
    "the key without a scheme": [KEY],
    "base64 without a scheme": [RIGHT[6:]],
    "another scheme": ["Digest " + RIGHT[6:], "Token " + KEY, "Negotiate " + KEY, "BasicX " + RIGHT[6:]],
    "a long one": ["Basic " + "QUFB" * 20000, "Bearer " + "a" * 80000],
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_wrong_credentials_are_a_plain_401(keyed, bare, name):
    for value in WRONG[name] or [None]:
        headers = [("Authorization", value)] if value is not None else []
        assert_challenged(call(keyed, BREAK_IN, *headers))
        if value not in (basic("", "right-key"), "Bearer right-key"):
            assert_challenged(call(bare, BREAK_IN, *headers))


@pytest.mark.parametrize("first", [RIGHT, "Bearer " + KEY, "Basic x", ""])
@pytest.mark.parametrize("second", [RIGHT, "Bearer " + KEY, "Basic x", ""])
def test_two_headers_are_a_plain_401(keyed, first, second):
    """Whoever looked at the request on its way may have taken the other one for the right one."""
    assert_challenged(call(keyed, BREAK_IN, ("Authorization", first), ("Authorization", second)))


def test_a_401_is_json_where_accept_prefers_it(keyed):
    answer = call(keyed, BREAK_IN, ("Accept", "application/json"))
    assert (answer.status, list(json.loads(answer.body.decode()))) == (401, ["error"])
    assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")


@pytest.mark.parametrize(
    "method, target", [("GET", "/nothing"), ("GET", "/execcmd"), ("GET", "/get-file"), ("GET", "/"), ("POST", "/mcp")]
)
def test_a_stranger_learns_no_path_method_or_parameter(keyed, method, target):
    assert_challenged(call(keyed, target, method=method))


@pytest.mark.parametrize(
    "key",
    ["\u043a\u043b\u044e\u0447", "voil\u00e0", "\u65e5\u672c", "\u00a0x\u0085", "s p a c e", "q\"u\\o'te", "a" * 5000],
)
def test_a_key_may_be_any_text(start, key):
    daemon = start("\u00fcser:" + key, "-nosafe")
    assert enter(daemon, ("Authorization", basic("\u00fcser", key))) == 200
    assert enter(daemon, ("Authorization", b"Bearer " + key.encode("utf-8"))) == 200
    assert enter(daemon, ("Authorization", basic("user", key))) == 401
    assert enter(daemon, ("Authorization", basic("\u00fcser", key + "\u0301"))) == 401
    assert enter(daemon, ("Authorization", b"Bearer " + key.encode("utf-8") + b"\xff")) == 401
    assert call(daemon, "/%s%s" % (token_of(daemon), ECHO)).status == 200


@pytest.mark.parametrize("value", [None, "", "Basic !!!!", "Digest x", b"\xff", basic("me", KEY)])
def test_noauth_lets_everybody_in(published, value):
    assert enter(published, *([("Authorization", value)] if value is not None else [])) == 200


def test_auth_key_in_the_environment_stands_in_for_auth(start):
    daemon = start("-nosafe", env={"AUTH_KEY": "me:" + KEY})
    assert enter(daemon) == 401
    assert enter(daemon, ("Authorization", basic("you", KEY))) == 401
    assert enter(daemon, ("Authorization", basic("me", KEY))) == 200
    assert enter(daemon, ("Authorization", "Bearer " + KEY)) == 200


def test_auth_on_the_command_line_counts_more(start):
    daemon = start("key-of-the-line", "-nosafe", env={"AUTH_KEY": "key-of-the-environment"})
    assert enter(daemon, ("Authorization", "Bearer key-of-the-environment")) == 401
    assert enter(daemon, ("Authorization", "Bearer key-of-the-line")) == 200


@pytest.mark.parametrize("auth", [[], ["other-key"]], ids=["used", "not used"])
def test_auth_key_is_not_in_a_commands_environment_and_the_rest_is(start, auth):
    daemon = start("-nosafe", *auth, env={"AUTH_KEY": "hidden-key", "KEPT": "kept \u00fc", "AUTH_KEYS": "kept, too"})
    header = ("Authorization", "Bearer " + (auth or ["hidden-key"])[0])
    names = call(daemon, "/execcmd?cmd=env", header).body.decode().split("\n")
    assert "KEPT=kept \u00fc" in names and "AUTH_KEYS=kept, too" in names
    assert "PATH=" + os.environ["PATH"] in names
    assert not [line for line in names if line.startswith("AUTH_KEY=") or "hidden-key" in line]


def test_the_start_up_lines_show_what_to_paste(keyed, bare):
    assert basic("me", KEY)[6:] in keyed.output().split()
    assert any(enter(bare, ("Authorization", "Basic " + word)) == 200 for word in bare.output().split())


# The secret URL


@pytest.mark.parametrize("headers", [[], [("Authorization", "Basic !!!!")], [("Authorization", "Bearer wrong")]])
def test_the_secret_url_needs_no_header(keyed, headers):
    answer = call(keyed, "/%s%s" % (token_of(keyed), ECHO), *headers)
    assert (answer.status, answer.body) == (200, b"in\n")


def test_every_path_is_there_below_the_secret_url(keyed):
    prefix = "/" + token_of(keyed)
    (keyed.directory / "file").write_bytes(b"hello")
    assert call(keyed, prefix + "/get-file?filename=file", method="GET").body == b"hello"
    assert call(keyed, prefix + "/openapi.json", method="GET").status == 200
    assert call(keyed, prefix + "/nothing").status == 404
    assert call(keyed, prefix + "/get-file").status == 405
    assert call(keyed, prefix + "/send-file").status == 411
    assert call(keyed, prefix + "/mcp", method="GET").status == 405
    assert call(keyed, prefix + "/", method="GET").status == 200
    assert call(keyed, prefix, method="GET").status == 200


def test_a_wrong_token_is_a_plain_401(keyed):
    token = token_of(keyed)
    other = token[:-1] + ("0" if token[-1] != "0" else "1")
    double = "%s/%s" % (other, token)
    for wrong in (other, token[:-1], token + "0", token.upper(), "0" * 32, "", "%00", "%ff", "x/" + token, double, KEY):
        assert_challenged(call(keyed, "/%s%s" % (wrong, BREAK_IN)))
    assert_challenged(call(keyed, BREAK_IN + "&token=" + token))
    assert_challenged(call(keyed, "/%s/openapi.json" % other, method="GET"))


def test_noauth_has_no_secret_url(published):
    assert "secret URL" not in published.output()
    assert call(published, "/None/execcmd?cmd=true").status == 404


def test_the_token_belongs_to_the_key(start, keyed):
    assert token_of(start("me:" + KEY, "-nosafe")) == token_of(keyed)
    assert token_of(start("me:" + KEY + "x", "-nosafe")) != token_of(keyed)


# The schema


def schema(daemon, target="/openapi.json", **options):
    """The schema that a daemon serves."""
    answer = call(daemon, target, method="GET", **options)
    assert answer.status == 200
    return json.loads(answer.body.decode())


def test_the_schema_is_open_and_holds_no_secret(keyed):
    for headers in ([], [("Authorization", "Basic !!!!")], [("Authorization", basic("me", KEY))]):
        answer = call(keyed, "/openapi.json", *headers, method="GET")
        assert answer.status == 200
        text = answer.body.decode()
        assert KEY not in text and token_of(keyed) not in text and basic("me", KEY)[6:] not in text


def test_with_a_key_the_schema_has_the_one_scheme_basic(keyed):
    found = schema(keyed, host="127.0.0.1:%d" % keyed.port)
    (name, scheme), = found["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "basic")
    assert found["security"] == [{name: []}]
    assert found["servers"] == [{"url": "http://127.0.0.1:%d" % keyed.port}]


def test_with_noauth_the_schema_has_no_scheme(published):
    found = schema(published)
    assert "security" not in found and "securitySchemes" not in found["components"]


def test_the_schemas_server_has_a_lower_case_host(published):
    """Started with -url https://Name.example: the importer of GPT actions refuses capitals there."""
    assert schema(published)["servers"] == [{"url": "https://name.example"}]


def test_fetched_through_the_secret_url_the_schema_names_that_and_no_scheme(keyed):
    url = re.search(r"secret URL: (\S+)", keyed.output()).group(1)
    found = schema(keyed, "/%s/openapi.json" % token_of(keyed), host="127.0.0.1:%d" % keyed.port)
    assert found["servers"] == [{"url": url}]
    assert "security" not in found and "securitySchemes" not in found["components"]


def test_a_public_secret_url_is_named_too(start):
    daemon = start("me:" + KEY, "-nosafe", "-url", "https://name.example/")
    token = token_of(daemon)
    assert "secret URL: https://name.example/%s\n" % token in daemon.output()
    for host in ("name.example", "127.0.0.1"):
        assert schema(daemon, host=host)["servers"] == [{"url": "https://name.example"}]
        found = schema(daemon, "/%s/openapi.json" % token, host=host)
        assert found["servers"] == [{"url": "https://name.example/" + token}]


# Host and Origin


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:1", "192.0.2.7:8000", "[::1]", "[::1]:8000", "[2001:DB8::7]:1", "[::ffff:127.0.0.1]"]
    + ["localhost", "localhost:8000", "LocalHost", "name.example", "NAME.example:443", "name.example.", "127.0.0.1:"],
)
def test_an_address_localhost_and_its_own_name_are_its_hosts(published, host):
    assert enter(published, host=host) == 200


@pytest.mark.parametrize(
    "host",
    ["elsewhere.example", "elsewhere.example:8000", "localhost.elsewhere.example", "127.0.0.1.elsewhere.example"]
    + ["name.example.elsewhere.example", "xname.example", "sub.name.example", "example", "localhost.localdomain", "x"]
    + ["me@127.0.0.1", "127.0.0.1@elsewhere.example", "127.0.0.1, elsewhere.example", "127.0.0.1/", "127.0.0.1#"]
    + ["[elsewhere.example]", "[::1", "::1]", "[::1]x", "[::1].elsewhere.example", "127.0.0.1:x", "127.0.0.1:1:1"]
    + [" elsewhere.example", "http://127.0.0.1", "127.0.0.1 x", "%31%32%37.0.0.1", "\u0661\u0662\u0667.0.0.1", "\xff"],
)
def test_any_other_host_is_421(published, keyed, host):
    for daemon in (published, keyed):
        for target, method in ((BREAK_IN, "POST"), ("/openapi.json", "GET"), ("/", "GET"), ("/nothing", "GET")):
            headers = [("Authorization", basic("me", KEY))]
            assert call(daemon, target, *headers, method=method, host=host.encode("utf-8")).status == 421
    assert not (published.directory / "broken-in").exists()


def test_an_empty_host_is_421(published):
    received = published.raw(b"POST %s HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n" % BREAK_IN.encode())
    assert received.startswith(b"HTTP/1.1 421 ")


def test_without_a_url_no_name_but_localhost_goes(keyed):
    right = ("Authorization", basic("me", KEY))
    assert enter(keyed, right, host="localhost") == 200
    assert enter(keyed, right, host="name.example") == 421


ORIGINS = [
    ("127.0.0.1:8000", "http://127.0.0.1:8000", 200),
    ("127.0.0.1", "http://127.0.0.1", 200),
    ("localhost:8000", "http://localhost:8000", 200),
    ("LOCALHOST:8000", "http://localhost:8000", 200),
    ("[::1]:8000", "http://[::1]:8000", 200),
    ("name.example", "https://name.example", 200),
    ("Name.Example", "https://name.example", 200),
    ("127.0.0.1:8000", "https://name.example", 200),  # behind what rewrites Host
    ("127.0.0.1:8000", "https://name.example:8000", 403),
    ("127.0.0.1:8000", "http://name.example", 403),
    ("127.0.0.1:8000", "https://name.example.elsewhere.example", 403),
    ("127.0.0.1:8000", "https://sub.name.example", 403),
    ("127.0.0.1:8000", "https://elsewhere.example", 403),
    ("127.0.0.1:8000", "null", 403),
    ("127.0.0.1:8000", "http://localhost:8000", 403),
    ("localhost:8000", "http://127.0.0.1:8000", 403),
    ("127.0.0.1:8000", "http://127.0.0.1", 403),
    ("127.0.0.1:8000", "http://127.0.0.1:8001", 403),
    ("127.0.0.1:8000", "http://127.0.0.1:80000", 403),
    ("127.0.0.1:8000", "http://127.0.0.1:8000.elsewhere.example", 403),
    ("127.0.0.1:8000", "http://127.0.0.1:8000@elsewhere.example", 403),
    ("127.0.0.1:8000", "http://elsewhere.example/http://127.0.0.1:8000", 403),
    ("127.0.0.1:8000", "http://127.0.0.1:8000 https://elsewhere.example", 403),
    ("127.0.0.1:8000", "127.0.0.1:8000", 403),
    ("127.0.0.1:8000", "file://", 403),
    ("127.0.0.1:8000", "chrome-extension://127.0.0.1:8000", 403),
    ("[::1]:8000", "http://[::2]:8000", 403),
    ("name.example", "https://sub.name.example", 403),
    ("name.example", "https://example", 403),
    ("name.example", "https://name.example.elsewhere.example", 403),
    ("name.example", "\xff", 403),
]


@pytest.mark.parametrize("host, origin, status", ORIGINS)
def test_a_web_page_of_another_origin_is_403(published, host, origin, status):
    answer = call(published, ECHO if status == 200 else BREAK_IN, ("Origin", origin), host=host)
    assert answer.status == status
    assert call(published, "/openapi.json", ("Origin", origin), method="GET", host=host).status == status
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_without_a_url_no_origin_but_the_hosts_is_its_own(keyed):
    right = ("Authorization", basic("me", KEY))
    for origin, status in (("http://127.0.0.1", 200), ("https://name.example", 403), ("none", 403), ("None", 403)):
        assert call(keyed, ECHO if status == 200 else BREAK_IN, right, ("Origin", origin)).status == status


def test_two_origins_are_403(published):
    own, other = ("Origin", "http://127.0.0.1"), ("Origin", "https://elsewhere.example")
    for headers in ((own, other), (other, own)):
        assert call(published, BREAK_IN, *headers).status == 403


@pytest.mark.parametrize("site, status", [("none", 200), ("same-origin", 200), ("same-site", 403), ("cross-site", 403)])
def test_a_cross_site_request_is_403(published, keyed, site, status):
    """Another port of this host is another page, and the same site."""
    for daemon in (published, keyed):
        headers = [("Authorization", basic("me", KEY)), ("Sec-Fetch-Site", site)]
        assert call(daemon, ECHO if status == 200 else BREAK_IN, *headers).status == status


def test_a_foreign_page_is_403_even_with_the_right_credentials(keyed):
    origin = ("Origin", "https://elsewhere.example")
    assert call(keyed, BREAK_IN, ("Authorization", basic("me", KEY)), origin).status == 403
    assert call(keyed, "/%s%s" % (token_of(keyed), BREAK_IN), origin).status == 403
    assert call(keyed, "/execcmd", origin, ("Access-Control-Request-Method", "POST"), method="OPTIONS").status == 403


def test_the_checks_come_in_their_order(keyed):
    """Framing, Host, Origin, credentials, path, method, parameters: each of these requests fails at all that follow."""
    right = ("Authorization", basic("me", KEY))
    origin = ("Origin", "https://elsewhere.example")
    bad_length = ("Content-Length", "x")
    assert call(keyed, "/nothing", bad_length, origin, host="elsewhere.example").status == 400
    assert call(keyed, "/nothing", origin, host="elsewhere.example").status == 421
    assert call(keyed, "/nothing", origin).status == 403
    assert call(keyed, "/nothing?x=y", method="PUT").status == 401
    assert call(keyed, "/nothing?x=y", right, method="PUT").status == 404
    assert call(keyed, "/execcmd?x=y", right, method="PUT").status == 405
    assert call(keyed, "/execcmd?x=y", right).status == 400


# What is printed


def test_nothing_is_printed_or_asked_before_the_credentials_are_right(start):
    daemon = start("me:" + KEY, tty=True)
    right = ("Authorization", basic("me", KEY))
    assert call(daemon, "/before", right).status == 404
    daemon.expect("/before")
    daemon.expect("\n")
    lines = [
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1" % BREAK_IN,
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic \xff" % BREAK_IN,
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: %s" % (BREAK_IN, basic("me", "wrong%s\x1b[31m")),
        "GET /get-file?filename=%s HTTP/1.1\r\nHost: 127.0.0.1" % quote("x\x1b[31m"),
        "POST /%s%s HTTP/1.1\r\nHost: 127.0.0.1" % ("0" * 32, BREAK_IN),
        "POST %s HTTP/1.1\r\nHost: elsewhere.example\r\nAuthorization: %s" % (BREAK_IN, right[1]),
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: null\r\nAuthorization: %s" % (BREAK_IN, right[1]),
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\nAuthorization: %s" % (BREAK_IN, right[1]),
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nX(: y\r\nAuthorization: %s" % (BREAK_IN, right[1]),
        "\x16\x03\x01",
    ]
    for line in lines:  # each answered until the end of its connection, when all that it logs is logged
        assert daemon.raw(line.encode("latin-1") + b"\r\nConnection: close\r\n\r\n")[:10] == b"HTTP/1.1 4"
    assert call(daemon, "/after", right).status == 404
    shown = daemon.expect("/after")
    assert shown.count("\n") == 0 and "broken-in" not in shown, shown
    assert not (daemon.directory / "broken-in").exists()


@pytest.mark.parametrize("key", ["hunter2-key", 'back\\slash"quote', "\u043a\u043b\u044e\u0447", "100%s {} \u202ekey"])
def test_neither_key_nor_token_is_ever_logged(start, tmp_path, key):
    trail = tmp_path / "trail"
    daemon = start("me:" + key, "-nosafe", "-log", trail)
    token, printed = token_of(daemon), daemon.output()
    bearer = ("Authorization", b"Bearer " + key.encode("utf-8"))
    right = ("Authorization", basic("me", key))
    for secret in (key, token):
        quoted = quote(secret, safe="")
        for header in (right, bearer):
            call(daemon, "/execcmd?cmd=" + quote(": '%s' %s" % (secret, secret), safe=""), header)
            call(daemon, "/get-file?filename=" + quoted, header, method="GET")
            call(daemon, "/get-file?filename=x&key=" + quoted, header, method="GET")
            call(daemon, "/" + quoted, header, method="GET")
            call(daemon, "/x/%s/y" % quoted, header, method="GET")
        call(daemon, "/%s/%s/execcmd?cmd=true" % (token, quoted))
        call(daemon, "/%s/execcmd?cmd=echo%%20%s" % (token, quoted))
        call(daemon, "/execcmd?cmd=true", ("Authorization", b"Bearer x" + key.encode("utf-8")), ("User-Agent", token))
    for target in ("/%s", "/%s/", "/%s/nothing", "/%s/openapi.json"):
        call(daemon, target % token, method="GET")
        call(daemon, target % ("%%%02x%s" % (ord(token[0]), token[1:])), method="GET")
    assert call(daemon, "/the-last-request", right).status == 404
    wait_for(lambda: "/the-last-request" in daemon.errors() and b"/the-last-request" in trail.read_bytes())
    assert daemon.output() == printed
    logged = daemon.errors() + trail.read_text(encoding="utf-8")
    entries = [json.loads(line) for line in trail.read_text(encoding="utf-8").splitlines()]
    logged += "".join(str(value) for entry in entries for value in entry.values())
    escaped = key.encode("unicode_escape").decode()
    for secret in (key, escaped, json.dumps(key)[1:-1], quote(key, safe=""), token, basic("me", key)[6:]):
        assert secret not in logged


def test_a_key_that_is_refused_is_not_printed_either(start):
    daemon = start("me:" + KEY, "-nosafe")
    printed = daemon.output(), daemon.errors()
    for value in (basic("me", "typing-error"), "Bearer typing-error", "Basic typing-error"):
        assert enter(daemon, ("Authorization", value)) == 401
    assert call(daemon, "/the-last-request", ("Authorization", "Bearer " + KEY)).status == 404
    wait_for(lambda: "/the-last-request" in daemon.errors())
    assert daemon.output() == printed[0]
    logged = daemon.errors()[len(printed[1]) :]
    assert logged.count("\n") == 1 and "typing-error" not in logged


# The log

REQUESTS = [
    # method, target, headers, status, what the log says of operation and subject
    ("POST", "/execcmd?cmd=echo%20hello", {}, 200, ("execcmd", "echo hello")),
    ("POST", "/execcmd?cmd=printf%20x%0Aprintf%20y%1b%C3%BC", {}, 200, ("execcmd", "printf x\nprintf y\x1b\u00fc")),
    ("POST", "/execcmd?cmd=exit%203", {"Accept": "application/json"}, 200, ("execcmd", "exit 3")),
    ("POST", "/execcmd?cmd=sleep%209&wait=0.1", {}, 202, ("execcmd", "sleep 9")),
    ("GET", "/get-file?filename=file", {}, 200, ("get-file", None)),
    ("GET", "/get-file?filename=file", {"Range": "bytes=0-1"}, 206, ("get-file", None)),
    ("GET", "/get-file?filename=missing", {}, 404, ("get-file", None)),
    ("GET", "/openapi.json", {}, 200, (None, None)),
    ("GET", "/nothing/%1b", {}, 404, (None, None)),
    ("PUT", "/execcmd", {}, 405, (None, None)),
    ("POST", "/execcmd?x=y", {}, 400, (None, None)),
]


def test_each_request_is_one_json_object_in_the_log_file(start, tmp_path):
    trail = tmp_path / "trail"
    before = os.umask(0)
    try:
        daemon = start("noauth", "-nosafe", "-log", trail)
    finally:
        os.umask(before)
    assert stat.S_IMODE(trail.stat().st_mode) == 0o600
    (daemon.directory / "file").write_bytes(b"hello")
    for number, (method, target, headers, status, (operation, subject)) in enumerate(REQUESTS, 1):
        answer = call(daemon, target, *headers.items(), method=method)
        assert answer.status == status, target
        entry = json.loads(wait_for_lines(number, trail.read_text))
        assert set(entry) >= {"time", "client", "operation", "subject", "decision", "status", "bytes", "seconds"}
        assert (entry["client"], entry["status"], entry["bytes"]) == ("127.0.0.1", status, len(answer.body))
        assert re.match(r"20[0-9]{2}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-5][0-9]:[0-6][0-9]", entry["time"])
        assert isinstance(entry["seconds"], (int, float)) and 0 <= entry["seconds"] < 60
        assert isinstance(entry["decision"], str) and isinstance(entry["subject"], str)
        assert operation is None or entry["operation"] == operation
        assert subject is None or entry["subject"] == subject


def test_each_request_is_one_line_on_the_terminal(start):
    daemon = start("noauth", "-nosafe")
    (daemon.directory / "file").write_bytes(b"hello")
    printed = daemon.errors().count("\n")
    for number, (method, target, headers, status, (operation, _)) in enumerate(REQUESTS, printed + 1):
        call(daemon, target, *headers.items(), method=method)
        line = wait_for_lines(number, daemon.errors)
        assert re.search(r"[0-2][0-9]:[0-5][0-9]:[0-6][0-9].* 127\.0\.0\.1 .*\b%d\b" % status, line), line
        assert operation is None or operation in line
        assert line.isprintable(), line


def test_the_log_file_is_added_to(start, tmp_path):
    trail = tmp_path / "trail"
    trail.write_bytes(b'{"what": "was there before"}\n')
    for number in (2, 3):
        daemon = start("noauth", "-nosafe", "-log", trail)
        assert enter(daemon) == 200
        wait_for_lines(number, trail.read_text)
        daemon.stop()
    lines = [json.loads(line) for line in trail.read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {"what": "was there before"}
    assert [line["subject"] for line in lines[1:]] == ["echo in", "echo in"]


def test_a_daemon_that_can_not_write_its_log_file_does_not_start(start, tmp_path):
    daemon = start("noauth", "-log", str(tmp_path / "nowhere" / "trail"), ready=False)
    assert wait_for(lambda: daemon.process.poll() is not None) and daemon.process.returncode == 1
    assert re.match(r"error: [^\n]+\n\Z", daemon.errors())


def test_the_client_is_the_last_x_forwarded_for_under_the_public_name_alone(start, tmp_path):
    trail = tmp_path / "trail"
    daemon = start("noauth", "-nosafe", "-log", trail, "-url", "https://name.example")
    forwarded = ("X-Forwarded-For", "198.51.100.1, 203.0.113.9")
    for number, (host, headers, client) in enumerate(
        [
            ("name.example", [forwarded], "203.0.113.9"),
            ("name.example", [("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-For", "203.0.113.9")], "203.0.113.9"),
            ("name.example", [], "127.0.0.1"),
            ("127.0.0.1", [forwarded], "127.0.0.1"),
            ("localhost", [forwarded], "127.0.0.1"),
        ],
        1,
    ):
        assert enter(daemon, *headers, host=host) == 200
        assert json.loads(wait_for_lines(number, trail.read_text))["client"] == client


@pytest.mark.parametrize("user", ["me:", ""])
def test_the_credentials_as_they_are_sent_are_not_logged_either(start, tmp_path, user):
    trail = tmp_path / "trail"
    daemon = start(user + "hunter2", "-nosafe", "-log", trail)
    encoded = base64.b64encode((user or "user:").encode() + b"hunter2").decode()
    command = quote("curl -H 'Authorization: Basic %s' example.invalid" % encoded)
    answer = daemon.request("POST", "/execcmd?cmd=true%20" + command, encoded, {"Authorization": "Bearer hunter2"})
    assert answer.status == 200
    logged = wait_for_lines(1, trail.read_text) + daemon.errors()
    assert encoded not in logged and "***" in logged


def test_the_audit_trail_has_the_beginning_of_a_long_input(start, tmp_path):
    trail = tmp_path / "trail"
    daemon = start("noauth", "-nosafe", "-log", trail)
    answer = daemon.request("POST", "/execcmd?cmd=wc%20-c", b"x" * 900000, {"Content-Type": "application/octet-stream"})
    assert answer.body.split() == [b"900000"]
    fact = json.loads(wait_for_lines(1, trail.read_text))["facts"][-1]
    assert fact.startswith("its standard input, 900000 bytes: xxx") and len(fact) == 65536


@pytest.mark.parametrize("ahead", range(65480, 65540, 4))
def test_where_a_long_input_is_cut_no_part_of_the_key_is_left(start, tmp_path, ahead):
    trail = tmp_path / "trail"
    daemon = start("me:hunter2-hunter2", "-nosafe", "-log", trail)
    headers = {"Authorization": "Bearer hunter2-hunter2", "Content-Type": "application/octet-stream"}
    body = b"x" * ahead + b"hunter2-hunter2" + b"y" * 200000
    assert daemon.request("POST", "/execcmd?cmd=wc%20-c", body, headers).status == 200
    assert "xh" not in json.loads(wait_for_lines(1, trail.read_text))["facts"][-1]
