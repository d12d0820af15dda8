"""HTTP as it arrives on the wire: heads, bodies, connections, and the answers of get-file and openapi.json."""

import contextlib
import http.client
import io
import json
import os
import re
import select
import signal
import socket
import struct
import threading
import time
from urllib.parse import quote, unquote

import pytest
from conftest import ROOT, Answer, Daemon, wait_for

import mycodeinterpreter


class Wire:
    """A connection on which bytes are sent as they are, and answers read one by one, each to its exact end."""

    def __init__(self, daemon):
        self.sock, self.received = daemon.connect(), b""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, *data):
        for piece in data:
            self.sock.sendall(piece)

    def fill(self):
        """Receives more; False at the end."""
        try:
            block = self.sock.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            block = b""
        self.received += block
        return bool(block)

    def take(self, count):
        while len(self.received) < count:
            assert self.fill(), "the answer is cut off: %r" % self.received[:500]
        taken, self.received = self.received[:count], self.received[count:]
        return taken

    def answer(self, method="GET"):
        """The next answer; each has a Content-Length, or chunks, unless it can't have a body."""
        while b"\r\n\r\n" not in self.received:
            assert self.fill(), "no answer, but %r" % self.received[:500]
        head = self.take(self.received.index(b"\r\n\r\n") + 4)
        first, _, fields = head.partition(b"\r\n")
        match = re.match(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [ -~]+\Z", first)
        assert match, "a bad status line: %r" % first
        for line in fields.split(b"\r\n")[:-2]:
            assert re.match(rb"[!-9;-~]+: [\t -~\x80-\xff]*\Z", line), "a bad header: %r" % line
        status, headers = int(match.group(1)), http.client.parse_headers(io.BytesIO(fields))
        if status == 304 or status < 200:
            return Answer(status, headers, b"")
        assert headers["X-Content-Type-Options"] == "nosniff"
        if headers["Transfer-Encoding"] is None:
            assert re.match(r"[0-9]+\Z", headers["Content-Length"] or ""), "no Content-Length: %r" % head
            return Answer(status, headers, b"" if method == "HEAD" else self.take(int(headers["Content-Length"])))
        body = b""
        while True:
            size = b""
            while not size.endswith(b"\r\n"):
                size += self.take(1)
            block = self.take(int(size, 16) + 2)[:-2]
            if not block:
                return Answer(status, headers, body)
            body += block

    def all(self):
        """All answers until the daemon closes the connection, which it has to do."""
        answers = []
        while self.received or self.fill():
            answers.append(self.answer())
        return answers

    def closed(self):
        """Whether nothing but the end of the connection follows."""
        return not self.received and not self.fill()


def request(line, *headers, body=b"", host="127.0.0.1"):
    """The bytes of a request."""
    lines = [line] + (["Host: " + host] if host else []) + list(headers)
    return "\r\n".join(lines + ["", ""]).encode("latin-1") + body


def exchange(daemon, data, half_close=False):
    """All answers to data, until the daemon closes."""
    with Wire(daemon) as wire:
        wire.send(data)
        if half_close:
            wire.sock.shutdown(socket.SHUT_WR)
        return wire.all()


def refused(daemon, data, status=400, half_close=False):
    """Asserts that data gets one answer, an error, and that the connection is closed then; returns the answer."""
    answers = exchange(daemon, data, half_close)
    assert [answer.status for answer in answers] == [status], answers
    assert answers[0].headers["Connection"] == "close"
    return answers[0]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """A daemon that takes USER:KEY me:right-key and asks nobody."""
    directory = tmp_path_factory.mktemp("keyed") / "work"
    directory.mkdir()
    daemon = Daemon(["me:right-key", "-nosafe", "-port", "0"], directory).ready()
    yield daemon
    daemon.close()


def hasty(directory, **limits):
    """The same program with limits that a test can reach."""
    path = directory / "hasty.py"
    path.write_text(
        "import sys\n"
        "sys.path.insert(0, %r)\n"
        "import mycodeinterpreter as program\n"
        "for name, value in %r.items():\n"
        "    assert hasattr(program, name), name\n"
        "    setattr(program, name, value)\n"
        "program.main()\n" % (str(ROOT), limits)
    )
    return path


@pytest.fixture(scope="module")
def alphabet(nosafe):
    """A file of 26 bytes."""
    path = nosafe.directory / "alphabet"
    path.write_bytes(b"abcdefghijklmnopqrstuvwxyz")
    return path


# The request head

HOST = b"Host: 127.0.0.1\r\n"
LINE = b"GET /openapi.json HTTP/1.1\r\n"

BAD_HEADS = {
    "a space before the colon": LINE + b"Host : 127.0.0.1\r\n\r\n",
    "a tab before the colon": LINE + HOST + b"Accept\t: */*\r\n\r\n",
    "a folded header": LINE + HOST + b"X-A: b\r\n c\r\n\r\n",
    "a header folded with a tab": LINE + HOST + b"X-A: b\r\n\tc\r\n\r\n",
    "a space before the first header": LINE + b" " + HOST + b"\r\n",
    "a header without a colon": LINE + HOST + b"X-A\r\n\r\n",
    "a header without a name": LINE + HOST + b": a\r\n\r\n",
    "a space in a name": LINE + HOST + b"X A: b\r\n\r\n",
    "a bracket in a name": LINE + HOST + b"X(A): b\r\n\r\n",
    "a quote in a name": LINE + HOST + b'X"A: b\r\n\r\n',
    "a control character in a name": LINE + HOST + b"X\x01A: b\r\n\r\n",
    "a byte above ASCII in a name": LINE + HOST + b"X\xe9A: b\r\n\r\n",
    "a NUL in a value": LINE + HOST + b"X-A: b\0c\r\n\r\n",
    "an escape in a value": LINE + HOST + b"X-A: b\x1b[1m\r\n\r\n",
    "a vertical tab in a value": LINE + HOST + b"X-A: b\x0bc\r\n\r\n",
    "a form feed in a value": LINE + HOST + b"X-A: b\x0cc\r\n\r\n",
    "a DEL in a value": LINE + HOST + b"X-A: b\x7fc\r\n\r\n",
    "a bare CR in a value": LINE + HOST + b"X-A: b\rContent-Length: 5\r\n\r\n",
    "a bare CR at the end of a value": LINE + HOST + b"X-A: b\r\r\n\r\n",
    "a bare LF in a value": LINE + HOST + b"X-A: b\nContent-Length: 5\r\n\r\n",
    "a bare CR in the request line": b"GET /openapi.json\r HTTP/1.1\r\n" + HOST + b"\r\n",
    "a bare CR behind the request line": b"GET /openapi.json HTTP/1.1\r\r\n" + HOST + b"\r\n",
    "bare LFs alone": b"GET /openapi.json HTTP/1.1\nHost: 127.0.0.1\n\n",
    "a bare LF before the empty line": LINE + b"Host: 127.0.0.1\n\r\n",
    "no Host": LINE + b"\r\n",
    "two Content-Types": LINE + HOST + b"Content-Type: text/plain\r\nContent-Type: application/json\r\n\r\n",
    "two Expects": LINE + HOST + b"Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n",
    "two Hosts": LINE + HOST + b"Host: localhost\r\n\r\n",
    "the same Host twice": LINE + HOST + HOST + b"\r\n",
    "no Host for an absolute target": b"GET http://127.0.0.1/openapi.json HTTP/1.1\r\n\r\n",
    "two spaces behind the method": b"GET  /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n",
    "two spaces behind the target": b"GET /openapi.json  HTTP/1.1\r\n" + HOST + b"\r\n",
    "tabs in the request line": b"GET\t/openapi.json\tHTTP/1.1\r\n" + HOST + b"\r\n",
    "a space before the method": b" GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space behind the version": b"GET /openapi.json HTTP/1.1 \r\n" + HOST + b"\r\n",
    "a space in the target": b"GET /openapi.json?a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "a NUL in the target": b"GET /openapi.json\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "an escape in the target": b"GET /openapi.json?\x1b HTTP/1.1\r\n" + HOST + b"\r\n",
    "no method": b"/openapi.json HTTP/1.1\r\n" + HOST + b"\r\n",
    "a bad method": b"G(ET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n",
    "no version": b"GET /openapi.json\r\n" + HOST + b"\r\n",
    "a lower-case version": b"GET /openapi.json http/1.1\r\n" + HOST + b"\r\n",
    "version 1.10": b"GET /openapi.json HTTP/1.10\r\n" + HOST + b"\r\n",
    "version 0.9 in words": b"GET /openapi.json HTTP/0.9\r\n" + HOST + b"\r\n",
    "version 2.0": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("name", sorted(BAD_HEADS))
def test_a_malformed_head_is_refused(nosafe, name):
    refused(nosafe, BAD_HEADS[name])


@pytest.mark.parametrize(
    "line",
    ["GET openapi.json", "GET ?a", "CONNECT 127.0.0.1:80", "OPTIONS *", "GET ftp://127.0.0.1/", "GET http:/x"],
)
def test_a_target_that_is_no_path_is_refused(nosafe, line):
    refused(nosafe, request(line + " HTTP/1.1", "Connection: close"))


GOOD_HEADS = {
    "no space behind the colon": LINE + b"Host:127.0.0.1\r\n",
    "white space around a value": LINE + b"Host: \t 127.0.0.1 \t \r\n",
    "an empty value": LINE + HOST + b"X-A:\r\n",
    "bytes above ASCII in a value": LINE + HOST + b"X-A: \xe9\xff\r\n",
    "a tab in a value": LINE + HOST + b"X-A: b\tc\r\n",
    "a name of every token character": LINE + HOST + b"!#$%&'*+-.^_`|~09AZaz: b\r\n",
    "a lower-case name": LINE + b"host: 127.0.0.1\r\n",
    "a header twice": LINE + HOST + b"X-A: b\r\nX-A: c\r\n",
    "an empty line first": b"\r\n" + LINE + HOST,
    "no Host in HTTP/1.0": b"GET /openapi.json HTTP/1.0\r\n",
    "100 headers": LINE + HOST + b"".join(b"X-%d: a\r\n" % number for number in range(98)),
    "a header of 300,000 bytes": LINE + HOST + b"X-A: " + b"a" * 300000 + b"\r\n",
    "an absolute target": b"GET http://127.0.0.1:8000/openapi.json HTTP/1.1\r\n" + HOST,
    "an absolute target in capitals": b"GET HTTP://LOCALHOST/openapi.json HTTP/1.1\r\n" + HOST,
    "an absolute https target": b"GET https://[::1]/openapi.json HTTP/1.1\r\n" + HOST,
}


@pytest.mark.parametrize("name", sorted(GOOD_HEADS))
def test_an_unusual_but_good_head_is_taken(nosafe, name):
    answers = exchange(nosafe, GOOD_HEADS[name] + b"Connection: close\r\n\r\n")
    assert [answer.status for answer in answers] == [200]


def test_an_absolute_targets_authority_counts_as_the_host(nosafe):
    for authority in ("elsewhere.example", "elsewhere.example:80", "me@127.0.0.1", ""):
        refused(nosafe, request("GET http://%s/openapi.json HTTP/1.1" % authority, "Connection: close"), 421)


def test_a_head_that_arrives_byte_by_byte_is_taken(nosafe):
    with Wire(nosafe) as wire:
        for byte in request("GET /openapi.json HTTP/1.1"):
            wire.send(bytes([byte]))
        assert wire.answer().status == 200


@pytest.mark.parametrize("cut", [b"GET /ope", LINE, LINE + HOST])
def test_a_head_that_is_cut_off_is_not_served(nosafe, cut):
    assert [answer.status for answer in exchange(nosafe, cut, half_close=True)] in ([], [400])


def test_over_100_headers_are_431(nosafe):
    refused(nosafe, request("GET /openapi.json HTTP/1.1", *("X-%d: a" % number for number in range(100))), 431)


@pytest.mark.parametrize("head", [LINE + HOST + b"X-A: ", b"GET /openapi.json?"], ids=["header", "target"])
def test_a_head_over_512_KiB_is_431(nosafe, head):
    refused(nosafe, head + b"a" * (600 << 10), 431)


# The length of a body

ECHO = "POST /execcmd?cmd=touch%20ran%3B%20cat HTTP/1.1"

BAD_LENGTHS = {
    "two lengths": ["Content-Length: 5", "Content-Length: 6"],
    "the same length twice": ["Content-Length: 5", "Content-Length: 5"],
    "a list": ["Content-Length: 5, 5"],
    "a plus sign": ["Content-Length: +5"],
    "a minus sign": ["Content-Length: -5"],
    "a space within": ["Content-Length: 5 0"],
    "hexadecimal": ["Content-Length: 0x5"],
    "a fraction": ["Content-Length: 5.0"],
    "an exponent": ["Content-Length: 5e0"],
    "an underscore": ["Content-Length: 0_5"],
    "empty": ["Content-Length:"],
    "a word": ["Content-Length: five"],
    "a superscript": ["Content-Length: \xb2"],
    "a no-break space": ["Content-Length: 5\xa0"],
    "30 digits": ["Content-Length: " + "9" * 30],
    "5000 digits": ["Content-Length: " + "9" * 5000],
    "chunks and a length": ["Transfer-Encoding: chunked", "Content-Length: 5"],
    "a length and chunks": ["Content-Length: 5", "Transfer-Encoding: chunked"],
    "chunks and a length of nothing": ["Content-Length: 0", "Transfer-Encoding: chunked"],
    "another coding": ["Transfer-Encoding: gzip"],
    "another coding first": ["Transfer-Encoding: gzip, chunked"],
    "another coding last": ["Transfer-Encoding: chunked, gzip"],
    "chunked twice": ["Transfer-Encoding: chunked, chunked"],
    "two headers": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    "two codings": ["Transfer-Encoding: identity", "Transfer-Encoding: chunked"],
    "identity": ["Transfer-Encoding: identity"],
    "an unknown coding": ["Transfer-Encoding: xchunked"],
    "an unknown coding and a length": ["Transfer-Encoding: x", "Content-Length: 5"],
    "no coding": ["Transfer-Encoding:"],
    "a coding in quotes": ['Transfer-Encoding: "chunked"'],
    "a coding with a no-break space": ["Transfer-Encoding: chunked\xa0"],
}


@pytest.mark.parametrize("name", sorted(BAD_LENGTHS))
def test_a_body_of_doubtful_length_is_refused(nosafe, name):
    refused(nosafe, request(ECHO, *BAD_LENGTHS[name], body=b"5\r\nhello\r\n0\r\n\r\n"))
    assert not (nosafe.directory / "ran").exists()


def test_chunks_in_http_1_0_are_refused(nosafe):
    body = b"5\r\nhello\r\n0\r\n\r\n"
    refused(nosafe, request(ECHO.replace("1.1", "1.0"), "Transfer-Encoding: chunked", body=body))
    assert not (nosafe.directory / "ran").exists()


@pytest.mark.parametrize("length", ["5", "0005", "  5\t"])
def test_a_length_is_decimal_digits(nosafe, length):
    data = request("POST /execcmd?cmd=cat HTTP/1.1", "Content-Length: " + length, "Connection: close", body=b"hello")
    assert [answer.body for answer in exchange(nosafe, data)] == [b"hello"]


def test_a_body_that_is_cut_off_runs_nothing(nosafe):
    refused(nosafe, request(ECHO, "Content-Length: 6", body=b"hello"), half_close=True)
    assert not (nosafe.directory / "ran").exists()


CHUNKED = "Transfer-Encoding: chunked"
GOOD_CHUNKS = {
    "one chunk": b"5\r\nhello\r\n0\r\n\r\n",
    "two chunks": b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    "a chunk a byte": b"1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n",
    "leading zeros": b"0005\r\nhello\r\n0000\r\n\r\n",
    "extensions": b'5;a;b=c;d="e;\\"f"\r\nhello\r\n0;last\r\n\r\n',
    "trailers": b"5\r\nhello\r\n0\r\nX-A: b\r\nContent-Length: 9\r\n\r\n",
}


@pytest.mark.parametrize("name", sorted(GOOD_CHUNKS))
def test_chunks_are_decoded_and_the_next_request_found(nosafe, name):
    first = request("POST /execcmd?cmd=cat HTTP/1.1", CHUNKED, body=GOOD_CHUNKS[name])
    answers = exchange(nosafe, first + request("GET /openapi.json HTTP/1.1", "Connection: close"))
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].body == b"hello"


@pytest.mark.parametrize("size", [b"1A", b"1a"])
def test_a_chunks_size_is_hexadecimal_in_either_case(nosafe, size):
    body = size + b"\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n"
    data = request("POST /execcmd?cmd=cat HTTP/1.1", CHUNKED, "Connection: close", body=body)
    assert [answer.body for answer in exchange(nosafe, data)] == [b"x" * 26]


def test_a_body_in_many_large_chunks_arrives_whole(nosafe):
    data = os.urandom(300000)
    body = b"".join(b"%x\r\n%s\r\n" % (len(block), block) for block in (data[:1], data[1:70000], data[70000:]))
    head = request("POST /execcmd?cmd=cat%20%3E%20chunks HTTP/1.1", CHUNKED, "Connection: close")
    assert [answer.status for answer in exchange(nosafe, head + body + b"0\r\n\r\n")] == [200]
    assert (nosafe.directory / "chunks").read_bytes() == data


def test_chunks_may_be_split_at_every_byte(nosafe):
    body = b"2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nX-A: b\r\n\r\n"
    with Wire(nosafe) as wire:
        for cut in range(len(body) + 1):
            wire.send(request("POST /execcmd?cmd=cat HTTP/1.1", CHUNKED, body=body[:cut]))
            time.sleep(0.002)  # nothing tells when the first part was received
            wire.send(body[cut:])
            assert wire.answer().body == b"hello", "split at byte %d" % cut


def test_chunks_may_come_byte_by_byte(nosafe):
    with Wire(nosafe) as wire:
        wire.send(request("POST /execcmd?cmd=cat HTTP/1.1", CHUNKED))
        for byte in GOOD_CHUNKS["extensions"]:
            wire.send(bytes([byte]))
            time.sleep(0.001)
        assert wire.answer().body == b"hello"


BAD_CHUNKS = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "a size that is no number": b"g\r\nhello\r\n0\r\n\r\n",
    "a size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "a size with a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a size with an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "a space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "two sizes": b"5 5\r\nhello\r\n0\r\n\r\n",
    "an extension without a size": b";a=b\r\nhello\r\n0\r\n\r\n",
    "a size of 17 digits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "a size line without an end": b"5;" + b"a" * 100000,
    "no line end behind the data": b"5\r\nhello0\r\n\r\n",
    "data longer than the size": b"4\r\nhello\r\n0\r\n\r\n",
    "data shorter than the size": b"6\r\nhello\r\n0\r\n\r\n",
    "bare LFs": b"5\nhello\n0\n\n",
    "a bare LF behind the size": b"5\nhello\r\n0\r\n\r\n",
    "a bare LF behind the data": b"5\r\nhello\n0\r\n\r\n",
    "a bare LF behind the last chunk": b"5\r\nhello\r\n0\n\n",
    "a bare CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "a thousand trailers": b"5\r\nhello\r\n0\r\n" + b"X-A: b\r\n" * 1000 + b"\r\n",
    "a long trailer": b"5\r\nhello\r\n0\r\nX-A: " + b"a" * 100000 + b"\r\n\r\n",
    "cut off in the size": b"5",
    "cut off behind the size": b"5\r\n",
    "cut off in the data": b"5\r\nhel",
    "cut off behind the data": b"5\r\nhello",
    "cut off before the last chunk": b"5\r\nhello\r\n",
    "cut off in the last chunk": b"5\r\nhello\r\n0\r\n",
    "cut off in the trailers": b"5\r\nhello\r\n0\r\nX-A: b\r\n",
}


@pytest.mark.parametrize("name", sorted(BAD_CHUNKS))
def test_malformed_chunks_run_nothing(nosafe, name):
    refused(nosafe, request(ECHO, CHUNKED, body=BAD_CHUNKS[name]), half_close=True)
    assert not (nosafe.directory / "ran").exists()


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
def test_a_form_over_1_MiB_is_413(nosafe, kind, framing):
    data, header = b"cmd=" + b"a" * (1 << 20), "Content-Length: %d" % ((1 << 20) + 4)
    if framing == "chunks":
        data, header = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data), CHUNKED
    headers = ["Content-Type: " + kind, header, "Connection: close"]
    refused(nosafe, request("POST /execcmd HTTP/1.1", *headers, body=data), 413)


def test_an_upload_without_a_length_is_411(nosafe):
    data = request("POST /send-file HTTP/1.1", "Content-Type: multipart/form-data; boundary=b", "Connection: close")
    refused(nosafe, data, 411)


# Expect: 100-continue

EXPECT = "Expect: 100-continue"
RIGHT = "Authorization: Bearer right-key"
FOREIGN = "Origin: https://elsewhere.example"


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_who_expects_100_gets_it_when_the_body_is_needed(nosafe, framing):
    header, body = ("Content-Length: 5", b"hello") if framing == "length" else (CHUNKED, GOOD_CHUNKS["two chunks"])
    with Wire(nosafe) as wire:
        for _ in range(2):
            wire.send(request("POST /execcmd?cmd=cat HTTP/1.1", header, EXPECT))
            assert wire.answer().status == 100
            wire.send(body)
            answer = wire.answer()
            assert (answer.status, answer.body) == (200, b"hello")


def test_who_sends_a_file_and_expects_100_gets_it(nosafe):
    part = b'--b\r\nContent-Disposition: form-data; name="document"; filename="expected"\r\n\r\nhello\r\n--b--\r\n'
    headers = ["Content-Type: multipart/form-data; boundary=b", "Content-Length: %d" % len(part), EXPECT]
    with Wire(nosafe) as wire:
        wire.send(request("POST /send-file HTTP/1.1", *headers))
        assert wire.answer().status == 100
        wire.send(part)
        assert wire.answer().status == 200
    assert (nosafe.directory / "expected").read_bytes() == b"hello"


@pytest.mark.parametrize(
    "status, line, headers",
    [
        (400, "POST /execcmd?cmd=cat HTTP/1.1", [RIGHT, CHUNKED]),
        (401, "POST /execcmd?cmd=cat HTTP/1.1", []),
        (401, "POST /nothing HTTP/1.1", []),
        (403, "POST /execcmd?cmd=cat HTTP/1.1", [RIGHT, FOREIGN]),
        (404, "POST /nothing HTTP/1.1", [RIGHT]),
        (405, "PUT /execcmd?cmd=cat HTTP/1.1", [RIGHT]),
        (405, "POST /get-file?filename=x HTTP/1.1", [RIGHT]),
        (421, "POST http://elsewhere.example/execcmd?cmd=cat HTTP/1.1", [RIGHT]),
    ],
)
def test_nobody_is_told_to_go_on_with_a_body_that_is_not_wanted(keyed, status, line, headers):
    refused(keyed, request(line, "Content-Length: 5", EXPECT, *headers), status)


@pytest.mark.parametrize(
    "data, body",
    [
        (request("POST /execcmd?cmd=echo HTTP/1.1", "Content-Length: 0", EXPECT, "Connection: close"), b"\n"),
        (request("POST /execcmd?cmd=echo HTTP/1.1", EXPECT, "Connection: close"), b"\n"),
        (request("POST /execcmd?cmd=cat HTTP/1.0", "Content-Length: 5", EXPECT, body=b"hello"), b"hello"),
    ],
    ids=["no bytes", "no body", "HTTP/1.0"],
)
def test_100_is_not_sent_where_it_is_of_no_use(nosafe, data, body):
    assert [(answer.status, answer.body) for answer in exchange(nosafe, data)] == [(200, body)]


# Connections


def test_a_connection_serves_one_request_after_the_other(nosafe):
    with Wire(nosafe) as wire:
        for line, status in [
            ("GET /openapi.json HTTP/1.1", 200),
            ("GET /nothing HTTP/1.1", 404),
            ("PUT /execcmd HTTP/1.1", 405),
            ("GET /get-file HTTP/1.1", 400),
            ("POST /execcmd?cmd=echo HTTP/1.1", 200),
            ("GET /openapi.json HTTP/1.1", 200),
        ]:
            wire.send(request(line))
            answer = wire.answer()
            assert (answer.status, answer.headers["Connection"]) == (status, None)


def test_pipelined_requests_are_answered_in_their_order(nosafe):
    data = b"".join(request("POST /execcmd?cmd=cat HTTP/1.1", "Content-Length: 1", body=b"%d" % n) for n in range(8))
    data += request("HEAD /openapi.json HTTP/1.1") + request("POST /execcmd?cmd=sleep%200.2%3B%20echo%20slow HTTP/1.1")
    with Wire(nosafe) as wire:
        wire.send(data + request("GET /nothing HTTP/1.1", "Connection: close"))
        assert [wire.answer().body for _ in range(8)] == [b"%d" % n for n in range(8)]
        assert wire.answer("HEAD").status == 200
        assert wire.answer().body == b"slow\n"
        assert wire.answer().status == 404
        assert wire.closed()


@pytest.mark.parametrize(
    "data",
    [
        request("GET /openapi.json HTTP/1.1", "Connection: close"),
        request("GET /openapi.json HTTP/1.1", "Connection: Close"),
        request("GET /openapi.json HTTP/1.1", "Connection: x, close"),
        request("GET /openapi.json HTTP/1.0"),
        request("GET /openapi.json HTTP/1.0", host=""),
    ],
    ids=["close", "Close", "list", "HTTP/1.0", "HTTP/1.0 without Host"],
)
def test_who_wants_the_connection_closed_gets_that(nosafe, data):
    answers = exchange(nosafe, data + request("POST /execcmd?cmd=touch%20ran HTTP/1.1"))
    assert [(answer.status, answer.headers["Connection"]) for answer in answers] == [(200, "close")]
    assert not (nosafe.directory / "ran").exists()


def test_http_1_0_gets_its_bodies(nosafe, alphabet):
    data = request("POST /execcmd?cmd=cat HTTP/1.0", "Content-Length: 5", body=b"hello")
    assert [answer.body for answer in exchange(nosafe, data)] == [b"hello"]
    data = request("GET /get-file?filename=alphabet HTTP/1.0")
    assert [answer.body for answer in exchange(nosafe, data)] == [alphabet.read_bytes()]


def test_a_client_gone_in_the_middle_of_a_download_is_let_go(nosafe):
    path = nosafe.directory / "sparse"
    with open(str(path), "wb") as file:
        file.truncate(1 << 30)
    for how in ("close", "reset"):
        with Wire(nosafe) as wire:
            wire.send(request("GET /get-file?filename=sparse HTTP/1.1"))
            assert wire.sock.recv(1000).startswith(b"HTTP/1.1 200 ")
            if how == "reset":
                wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert nosafe.request("GET", "/openapi.json").status == 200
    wait_for(lambda: str(path) not in opened_by(nosafe), what="the file to be closed")
    path.unlink()


def opened_by(daemon):
    """The paths that a daemon has open; none where the system doesn't tell."""
    paths = []
    directory = "/proc/%d/fd" % daemon.process.pid
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        with contextlib.suppress(OSError):
            paths.append(os.readlink(os.path.join(directory, name)))
    return paths


def test_100_connections_at_once_are_answered(nosafe):
    """Stopped, the daemon accepts none of them: the system has to keep them all waiting."""
    wires = []
    os.kill(nosafe.process.pid, signal.SIGSTOP)
    try:
        for _ in range(100):
            wires.append(Wire(nosafe))
            wires[-1].send(request("GET /openapi.json HTTP/1.1", "Connection: close"))
    finally:
        os.kill(nosafe.process.pid, signal.SIGCONT)
    assert [wire.answer().status for wire in wires] == [200] * 100
    for wire in wires:
        wire.sock.close()


def in_background(function):
    """Calls the function in a thread; returns a function that waits for its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()

    def result():
        thread.join(30)
        return results[0]

    return result


def drip(daemon, head, byte=b"a"):
    """Sends head, then a byte now and then, until the connection is closed; returns what was answered."""
    with Wire(daemon) as wire:
        wire.sock.settimeout(0.1)
        until = time.monotonic() + 15
        try:
            wire.send(head)
            while time.monotonic() < until:
                try:
                    if not wire.fill():
                        return wire.received
                except socket.timeout:
                    wire.send(byte)
        except (BrokenPipeError, ConnectionResetError):
            return wire.received
    raise AssertionError("the connection was not closed")


def test_idle_and_stuck_connections_are_dropped_and_active_ones_go_on(start, tmp_path):
    daemon = start("noauth", "-nosafe", program=hasty(tmp_path, IDLE_TIMEOUT=1.5))
    path = daemon.directory / "sparse"
    with open(str(path), "wb") as file:
        file.truncate(1 << 28)
    active = in_background(lambda: daemon.request("POST", "/execcmd?cmd=sleep%203%3B%20echo%20done"))
    head = request("POST /execcmd?cmd=touch%20ran HTTP/1.1", "Content-Length: 999")
    slow_body = in_background(lambda: drip(daemon, head))
    no_body = in_background(lambda: drip(daemon, head, b""))
    with Wire(daemon) as silent, Wire(daemon) as idle, Wire(daemon) as deaf:
        deaf.send(request("GET /get-file?filename=sparse HTTP/1.1"))
        idle.send(request("GET /openapi.json HTTP/1.1"))
        assert idle.answer().status == 200
        assert silent.closed()
        assert idle.closed()
        assert slow_body()[:13] in (b"", b"HTTP/1.1 408 ")
        assert no_body()[:13] in (b"", b"HTTP/1.1 408 ")
        assert active().body == b"done\n"
        wait_for(lambda: str(path) not in opened_by(daemon), what="the download that nobody reads to be given up")
    assert not (daemon.directory / "ran").exists()


def test_slow_heads_are_dropped_and_active_ones_go_on(start, tmp_path):
    daemon = start("noauth", "-nosafe", program=hasty(tmp_path, HEAD_TIMEOUT=1))
    with Wire(daemon) as idle:
        results = [
            in_background(lambda head=head, byte=byte: drip(daemon, head, byte))
            for head, byte in ((LINE + HOST + b"X-A: ", b"a"), (LINE, b""), (b"GET /", b"a"), (b"\r\n", b""))
        ]
        assert [result()[:13] for result in results if result()[:13] not in (b"", b"HTTP/1.1 408 ")] == []
        idle.send(request("GET /openapi.json HTTP/1.1"))
        assert idle.answer().status == 200


def test_connections_over_the_cap_make_room_and_active_ones_go_on(start, tmp_path):
    daemon = start("noauth", "-nosafe", program=hasty(tmp_path, MAX_CONNECTIONS=8))
    wires = []
    with Wire(daemon) as active:
        active.send(request("POST /execcmd?cmd=touch%20running%3B%20sleep%201%3B%20echo%20done HTTP/1.1"))
        wait_for((daemon.directory / "running").exists)
        for _ in range(40):
            wires.append(Wire(daemon))
        assert daemon.request("GET", "/openapi.json").status == 200
        assert wires[0].closed(), "who has idled longest makes room"
        assert active.answer().body == b"done\n"
    for wire in wires:
        wire.sock.close()


def test_connections_are_capped_though_none_is_idle(start, tmp_path):
    daemon = start("noauth", "-nosafe", program=hasty(tmp_path, MAX_CONNECTIONS=8, HEAD_TIMEOUT=60))
    sockets = []
    for _ in range(40):
        sockets.append(daemon.connect())
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sockets[-1].sendall(b"GET /")
    wait_for(lambda: len(select.select(sockets, [], [], 0)[0]) >= 30, what="30 of 40 connections to be closed")
    for sock in sockets:
        sock.close()
    wait_for(lambda: answers(daemon), what="an answer when there is room again")


def answers(daemon):
    """Whether it takes a connection and answers on it."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return daemon.request("GET", "/openapi.json").status == 200
    return False


# A body is never taken for the next request

SMUGGLED = request("POST /execcmd?cmd=touch%20smuggled HTTP/1.1", RIGHT, "Content-Length: 0")
FILE_PART = b'--b\r\nContent-Disposition: form-data; name="document"; filename="%s"\r\n\r\nx\r\n--b--\r\n'
MULTIPART = "Content-Type: multipart/form-data; boundary=b"
JSON = "Content-Type: application/json"

EARLY = {
    "401 without credentials": (401, "POST /execcmd?cmd=true HTTP/1.1", [], b""),
    "401 with a wrong key": (401, "POST /execcmd?cmd=true HTTP/1.1", ["Authorization: Bearer wrong"], b""),
    "401 at a path that is not there": (401, "POST /nothing HTTP/1.1", [], b""),
    "403 for a foreign Origin": (403, "POST /execcmd?cmd=true HTTP/1.1", [RIGHT, FOREIGN], b""),
    "403 cross-site": (403, "POST /execcmd?cmd=true HTTP/1.1", [RIGHT, "Sec-Fetch-Site: cross-site"], b""),
    "404": (404, "POST /nothing HTTP/1.1", [RIGHT], b""),
    "405": (405, "PUT /execcmd?cmd=true HTTP/1.1", [RIGHT], b""),
    "405 for a POST": (405, "POST /get-file?filename=x HTTP/1.1", [RIGHT], b""),
    "405 for a POST of the schema": (405, "POST /openapi.json HTTP/1.1", [], b""),
    "413": (413, "POST /execcmd HTTP/1.1", [RIGHT, JSON], b"x" * ((1 << 20) + 1)),
    "421": (421, "POST http://elsewhere.example/execcmd?cmd=true HTTP/1.1", [RIGHT], b""),
    "400 for what is no form": (400, "POST /send-file HTTP/1.1", [RIGHT, "Content-Type: text/plain"], b""),
    "400 without a boundary": (400, "POST /send-file HTTP/1.1", [RIGHT, "Content-Type: multipart/form-data"], b""),
    "400 for a parameter": (400, "POST /send-file?x=y HTTP/1.1", [RIGHT, MULTIPART], b""),
    "400 for JSON": (400, "POST /execcmd HTTP/1.1", [RIGHT, JSON], b"{"),
    "400 for a file name": (400, "POST /send-file HTTP/1.1", [RIGHT, MULTIPART], FILE_PART % b".."),
    "200 for an epilogue": (200, "POST /send-file HTTP/1.1", [RIGHT, MULTIPART], FILE_PART % b"stored"),
    "400 for a GET": (400, "GET /get-file HTTP/1.1", [RIGHT], b""),
    "404 for a GET": (404, "GET /get-file?filename=missing HTTP/1.1", [RIGHT], b""),
    "200 for a GET": (200, "GET /openapi.json HTTP/1.1", [], b""),
    "200 for stdin": (200, "POST /execcmd?cmd=true HTTP/1.1", [RIGHT], b""),
}


def test_the_smuggled_request_is_one_that_works(keyed):
    with Wire(keyed) as wire:
        wire.send(SMUGGLED)
        assert wire.answer().status == 200
    (keyed.directory / "smuggled").unlink()


@pytest.mark.parametrize("late", [False, True], ids=["at once", "behind the answer"])
@pytest.mark.parametrize("name", sorted(EARLY))
def test_a_body_is_never_taken_for_a_request(keyed, name, late):
    status, line, headers, before = EARLY[name]
    body = before + SMUGGLED
    with Wire(keyed) as wire:
        wire.send(request(line, "Content-Length: %d" % len(body), *headers, body=b"" if late else body))
        if late and not answered_early(wire):
            late = False
            wire.send(body)
        assert wire.answer().status == status
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            wire.send(body if late else b"", request("GET /nothing HTTP/1.1", RIGHT, "Connection: close"))
        assert [answer.status for answer in wire.all()] in ([], [404])
    assert not (keyed.directory / "smuggled").exists()


def answered_early(wire):
    """Whether an answer comes before the body was sent."""
    wire.sock.settimeout(0.3)
    try:
        return wire.fill()
    except socket.timeout:
        return False
    finally:
        wire.sock.settimeout(30)


@pytest.mark.parametrize("name", ["401 without credentials", "403 for a foreign Origin", "404", "405", "200 for a GET"])
def test_a_chunked_body_is_never_taken_for_a_request(keyed, name):
    status, line, headers, _ = EARLY[name]
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    with Wire(keyed) as wire:
        wire.send(request(line, CHUNKED, *headers, body=body))
        wire.send(request("GET /nothing HTTP/1.1", RIGHT, "Connection: close"))
        answers = [answer.status for answer in wire.all()]
    assert answers in ([status], [status, 404])
    assert not (keyed.directory / "smuggled").exists()


@pytest.mark.parametrize(
    "data",
    [
        request("POST /execcmd?cmd=true HTTP/1.1", RIGHT, "Content-Length: 5", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
        request("POST /execcmd?cmd=true HTTP/1.1", RIGHT, "Content-Length: 1", "Content-Length: 0", body=SMUGGLED),
        request("POST /execcmd?cmd=true HTTP/1.1", RIGHT, "Content-Length: x", body=SMUGGLED),
        request("POST /execcmd?cmd=true HTTP/1.1", RIGHT, "Transfer-Encoding: x", body=SMUGGLED),
        request("POST /execcmd?cmd=true HTTP/1.1", RIGHT, CHUNKED, body=b"x\r\n" + SMUGGLED),
        request("POST /execcmd?cmd=true HTTP/1.1", RIGHT, "X-A: b\n\n" + SMUGGLED.decode()),
        request("POST /execcmd?cmd=true HTTP/1.1", RIGHT, "Content-Length : 9", body=SMUGGLED),
    ],
    ids=["both framings", "two lengths", "a bad length", "an unknown coding", "a bad chunk", "bare LFs", "a space"],
)
def test_nothing_behind_a_malformed_request_is_read(keyed, data):
    refused(keyed, data)
    assert not (keyed.directory / "smuggled").exists()


@pytest.mark.parametrize(
    "status, data",
    [
        (400, request(ECHO, "Content-Length: x")),
        (400, request(ECHO, "X A: b")),
        (401, request(ECHO, "Content-Length: 3000000")),
        (403, request(ECHO, RIGHT, FOREIGN, "Content-Length: 3000000")),
        (404, request("POST /nothing HTTP/1.1", RIGHT, "Content-Length: 3000000")),
        (405, request("PUT /execcmd HTTP/1.1", RIGHT, "Content-Length: 3000000")),
        (413, request("POST /execcmd HTTP/1.1", RIGHT, JSON, "Content-Length: 3000000")),
        (431, LINE + HOST + b"X-A: "),
    ],
    ids=["bad length", "bad head", "401", "403", "404", "405", "413", "431"],
)
def test_an_early_answer_arrives_though_the_request_goes_on(keyed, status, data):
    """Closed with bytes unread, a connection is reset, and the answer lost (RFC 9112 9.6)."""
    with Wire(keyed) as wire:
        wire.send(data, b"a" * 3000000)
        assert wire.answer().status == status
        assert wire.closed()


# Paths, methods, and errors

PATHS = dict.fromkeys(["/execcmd", "/send-file", "/mcp"], "POST")
PATHS.update(dict.fromkeys(["/", "/get-file", "/openapi.json"], "GET"))


@pytest.mark.parametrize("path", sorted(PATHS))
def test_a_wrong_method_is_405_and_told_the_right_ones(nosafe, path):
    right = PATHS[path]
    with Wire(nosafe) as wire:
        other = "GET" if right == "POST" else "POST"
        for method in (other, "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "get", "post"):
            wire.send(request("%s %s HTTP/1.1" % (method, path)))
            answer = wire.answer()
            allowed = (answer.headers["Allow"] or "").replace(" ", "").split(",")
            assert (answer.status, right in allowed, method in allowed) == (405, True, False), method


@pytest.mark.parametrize(
    "target",
    ["/nothing", "/favicon.ico", "/execcmd/", "/execcmd/x", "/EXECCMD", "//execcmd", "/./execcmd", "/x/../execcmd"]
    + ["/%ff", "/%00", "/execcmd%00", "/execcmd%20", "/execcmd;x", "//elsewhere.example/openapi.json", "/..", "/\xff"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_404(nosafe, method, target):
    line = "%s %s HTTP/1.1" % (method, target + ("?cmd=touch%20ran" if method == "POST" else ""))
    answers = exchange(nosafe, request(line, "Connection: close"))
    assert [answer.status for answer in answers] == [404]
    assert not (nosafe.directory / "ran").exists()


@pytest.mark.parametrize(
    "line",
    [
        "GET /get-file HTTP/1.1",
        "GET /get-file? HTTP/1.1",
        "GET /get-file?filename HTTP/1.1",
        "GET /get-file?filename= HTTP/1.1",
        "GET /get-file?name=alphabet HTTP/1.1",
        "GET /get-file?filename=alphabet&x=y HTTP/1.1",
        "GET /get-file?filename=alphabet&filename=alphabet HTTP/1.1",
        "GET /get-file?filename=alphabet%00 HTTP/1.1",
        "GET /get-file?filename=%00 HTTP/1.1",
        "GET /get-file?filename=%ff HTTP/1.1",
        "GET /get-file?filename=%C3 HTTP/1.1",
        "GET /get-file?filename=%C0%AFetc HTTP/1.1",
        "GET /get-file?filename=%ED%A0%80 HTTP/1.1",
        "POST /execcmd HTTP/1.1",
        "POST /execcmd?cmd= HTTP/1.1",
        "POST /execcmd?cmd=touch%20ran%00 HTTP/1.1",
        "POST /execcmd?cmd=touch%20ran%ff HTTP/1.1",
        "POST /execcmd?cmd=touch%20ran%ED%A0%80 HTTP/1.1",
        "POST /execcmd?cmd=touch+ran&&true HTTP/1.1",
        "POST /execcmd?cmd=touch+ran&cmd=true HTTP/1.1",
    ],
)
def test_a_bad_parameter_is_400(nosafe, alphabet, line):
    answers = exchange(nosafe, request(line, "Connection: close"))
    assert [answer.status for answer in answers] == [400]
    assert not (nosafe.directory / "ran").exists()


@pytest.mark.parametrize(
    "accept, as_json",
    [
        (None, False),
        ("*/*", False),
        ("text/plain", False),
        ("application/*", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("text/plain, application/json;q=0.5", False),
        ("application/json;q=0.1, text/plain;q=0.2", False),
        ("application/json;q=0", False),
        ("application/jsonx", False),
        ("", False),
        (",;=\xff", False),
        ("application/json", True),
        ("Application/JSON", True),
        ("application/json; charset=utf-8", True),
        ("application/json, text/plain, */*", True),
        ("text/plain;q=0.1, application/json;q=0.2", True),
        ("text/plain;q=0.5, application/json", True),
    ],
)
def test_errors_are_a_sentence_and_json_where_accept_prefers_it(nosafe, accept, as_json):
    headers = ["Accept: " + accept] if accept is not None else []
    with Wire(nosafe) as wire:
        for line in ("GET /nothing HTTP/1.1", "GET /get-file HTTP/1.1", "PUT /execcmd HTTP/1.1"):
            wire.send(request(line, *headers))
            answer = wire.answer()
            text = answer.body.decode("utf-8")
            if as_json:
                assert answer.headers["Content-Type"].startswith("application/json")
                assert list(json.loads(text)) == ["error"]
                text = json.loads(text)["error"] + "\n"
            else:
                assert answer.headers["Content-Type"].startswith("text/plain")
            assert re.match(r"[^\n]{10,200}\n\Z", text), text


def test_a_400_for_framing_is_json_where_accept_prefers_it(nosafe):
    answer = refused(nosafe, request(ECHO, "Accept: application/json", "Content-Length: x"))
    assert list(json.loads(answer.body.decode())) == ["error"]


def test_an_error_repeats_no_control_characters(nosafe):
    answer = nosafe.request("GET", "/get-file?filename=%1b%5d0;x%07%0d%0a%e2%80%ae%c2%9b")
    assert answer.status == 404
    assert all(char.isprintable() for char in answer.body.decode().rstrip("\n"))


def test_a_head_request_gets_the_same_head_and_no_body(nosafe, alphabet):
    targets = "/openapi.json /get-file?filename=alphabet /get-file?filename=missing /get-file /nothing /execcmd"
    with Wire(nosafe) as wire:
        for target in targets.split():
            wire.send(request("GET %s HTTP/1.1" % target))
            got = wire.answer()
            wire.send(request("HEAD %s HTTP/1.1" % target))
            head = wire.answer("HEAD")
            assert head.status == got.status
            differing = ("Date", "Content-Length") if got.status == 405 else ("Date",)
            assert [x for x in head.headers.items() if x[0] not in differing] == [
                x for x in got.headers.items() if x[0] not in differing
            ]


def test_the_schema_is_json_that_names_this_server(nosafe):
    answer = nosafe.request("GET", "/openapi.json")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    schema = json.loads(answer.body.decode())
    assert schema["servers"] == [{"url": "http://127.0.0.1:%d" % nosafe.port}]
    assert set(schema["paths"]) >= {"/execcmd", "/get-file", "/send-file"}


# get-file


@pytest.mark.parametrize(
    "name",
    ["plain", "with space", "a+b", "a&b=c", "100%", "%41", "a#b?c", "-dash", ".hidden", 'q"uo\\te', "semi;colon"]
    + ["\u00fc\u65e5", "\U0001f600", "new\nline", "cr\r\nX-Evil: 1", "esc\x1b[1m", "page.html", "x" * 255]
    + ["data:text/html\r\nX-Evil: 1,x", "http://elsewhere.example/x.html"],
)
def test_a_file_comes_byte_for_byte_as_an_attachment_of_its_name(nosafe, name):
    data = os.urandom(1000) + b"<script>alert(1)</script>"
    path = nosafe.directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    with Wire(nosafe) as wire:
        wire.send(request("GET /get-file?filename=%s HTTP/1.1" % quote(name, safe="")))
        answer = wire.answer()
    assert (answer.status, answer.body) == (200, data)
    assert answer.headers["X-Evil"] is None and answer.headers["Content-Security-Policy"].startswith("sandbox;")
    disposition = answer.headers["Content-Disposition"]
    match = re.match(r"attachment; .*filename\*=UTF-8''([A-Za-z0-9!#$&+.^_`|~%-]+)\Z", disposition)
    assert unquote(match.group(1)) == path.name


def test_a_path_may_be_absolute_or_lead_through_directories(nosafe, alphabet, tmp_path):
    (nosafe.directory / "sub").mkdir()
    (nosafe.directory / "sub" / "file").write_bytes(b"below")
    (tmp_path / "file").write_bytes(b"elsewhere")
    (nosafe.directory / "link").symlink_to(tmp_path / "file")
    for filename, data in [
        ("sub/file", b"below"),
        ("sub/../alphabet", alphabet.read_bytes()),
        ("./alphabet", alphabet.read_bytes()),
        (str(tmp_path / "file"), b"elsewhere"),
        ("link", b"elsewhere"),
    ]:
        answer = nosafe.request("GET", "/get-file?filename=" + quote(filename))
        assert (answer.status, answer.body) == (200, data), filename


def test_an_empty_file_comes_as_200(nosafe):
    (nosafe.directory / "empty").write_bytes(b"")
    answer = nosafe.request("GET", "/get-file?filename=empty")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")


def test_a_large_file_comes_whole_and_in_ranges(nosafe):
    data = os.urandom(3000000)
    (nosafe.directory / "large").write_bytes(data)
    assert nosafe.request("GET", "/get-file?filename=large").body == data
    parts = [
        nosafe.request("GET", "/get-file?filename=large", headers={"Range": "bytes=%d-%d" % (at, at + 999999)}).body
        for at in range(0, len(data), 1000000)
    ]
    assert b"".join(parts) == data


@pytest.mark.parametrize(
    "filename", ["missing", "missing/x", "alphabet/x", "alphabet/", "loop", "dangling", "x" * 5000, "%ZZ", "~"]
)
def test_a_file_that_is_not_there_is_404(nosafe, alphabet, filename):
    for name, target in (("loop", "loop"), ("dangling", "nowhere")):
        if not (nosafe.directory / name).is_symlink():
            (nosafe.directory / name).symlink_to(target)
    assert nosafe.request("GET", "/get-file?filename=" + filename).status == 404


@pytest.mark.parametrize("filename", [".", "..", "/", "/dev/null", "/dev/zero", "/dev/tty", "fifo", "socket"])
def test_what_is_no_regular_file_is_400(nosafe, filename):
    if filename == "fifo":
        os.mkfifo(str(nosafe.directory / "fifo"))
    if filename == "socket":
        os.mknod(str(nosafe.directory / "socket"), 0o600 | 0o140000)
    assert nosafe.request("GET", "/get-file?filename=" + filename).status == 400


def test_an_unreadable_file_is_403(start, tmp_path):
    """Nothing is unreadable for root, so the daemon becomes somebody else once it serves."""
    program = tmp_path / "unprivileged.py"
    program.write_text(
        "import mimetypes, os, sys, urllib.parse\n"
        "sys.path.insert(0, %r)\n"
        "import mycodeinterpreter as program\n"
        "serve = program.Server.serve_forever\n"
        "program.Server.serve_forever = lambda *a, **k: (os.geteuid() or os.setuid(65534), serve(*a, **k))\n"
        "program.main()\n" % str(ROOT)
    )
    daemon = start("noauth", "-nosafe", program=program)
    (daemon.directory / "unreadable").write_bytes(b"secret")
    (daemon.directory / "unreadable").chmod(0)
    answer = daemon.request("GET", "/get-file?filename=unreadable")
    assert answer.status == 403 and b"secret" not in answer.body


@pytest.mark.parametrize(
    "ranges, start, stop",
    [
        ("bytes=0-4", 0, 5),
        ("bytes=0-0", 0, 1),
        ("bytes=3-", 3, 26),
        ("bytes=0-", 0, 26),
        ("bytes=25-", 25, 26),
        ("bytes=25-25", 25, 26),
        ("bytes=20-99", 20, 26),
        ("bytes=20-999999999999999999", 20, 26),
        ("bytes=-5", 21, 26),
        ("bytes=-26", 0, 26),
        ("bytes=-99", 0, 26),
        ("bytes= 0-4", 0, 5),
    ],
)
def test_a_range_is_206(nosafe, alphabet, ranges, start, stop):
    answer = nosafe.request("GET", "/get-file?filename=alphabet", headers={"Range": ranges})
    assert (answer.status, answer.body) == (206, alphabet.read_bytes()[start:stop])
    assert answer.headers["Content-Range"] == "bytes %d-%d/26" % (start, stop - 1)
    assert answer.headers["Content-Disposition"].startswith("attachment")


@pytest.mark.parametrize(
    "ranges",
    ["bytes=0-4,6-7", "bytes=5-2", "bytes=", "bytes=-", "bytes=a-b", "bytes=0x0-4", "bytes=1", "items=0-4", "0-4", ""]
    + ["bytes=--5", "bytes=+0-4", "bytes=0-4;", "bytes=0-4-5", "bytes 0-4", "bytes=\xb2-\xb3"],
)
def test_several_ranges_and_nonsense_are_answered_with_all(nosafe, alphabet, ranges):
    answer = nosafe.request("GET", "/get-file?filename=alphabet", headers={"Range": ranges})
    assert (answer.status, answer.body) == (200, alphabet.read_bytes())
    assert answer.headers["Content-Range"] is None
    assert answer.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize("ranges", ["bytes=26-", "bytes=26-30", "bytes=999999999-", "bytes=-0"])
def test_a_range_beyond_the_file_is_416(nosafe, alphabet, ranges):
    answer = nosafe.request("GET", "/get-file?filename=alphabet", headers={"Range": ranges})
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */26")


def test_a_range_of_an_empty_file_is_416(nosafe):
    (nosafe.directory / "empty").write_bytes(b"")
    answer = nosafe.request("GET", "/get-file?filename=empty", headers={"Range": "bytes=0-"})
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */0")


def test_an_unchanged_file_is_304(nosafe, alphabet):
    tag = nosafe.request("GET", "/get-file?filename=alphabet").headers["ETag"]
    assert re.match(r'"[!#-~]+"\Z', tag)
    for match in (tag, "W/" + tag, "*", '"x", ' + tag, tag + ', "x"', '"x",W/' + tag):
        with Wire(nosafe) as wire:
            for method in ("GET", "HEAD"):
                target = "%s /get-file?filename=alphabet HTTP/1.1" % method
                wire.send(request(target, "If-None-Match: " + match, "Range: bytes=0-4"))
                answer = wire.answer(method)
                assert (answer.status, answer.headers["ETag"]) == (304, tag), match
            wire.send(request("GET /nothing HTTP/1.1"))
            assert wire.answer().status == 404
    for match in ('"x"', tag[:-2] + '"', tag.strip('"'), "", '"*"'):
        answer = nosafe.request("GET", "/get-file?filename=alphabet", headers={"If-None-Match": match})
        assert answer.status == 200, match


def test_a_changed_file_has_another_tag(nosafe):
    path = nosafe.directory / "changing"
    path.write_bytes(b"one")
    os.utime(str(path), (1000000000, 1000000000))
    first = nosafe.request("GET", "/get-file?filename=changing").headers["ETag"]
    assert nosafe.request("GET", "/get-file?filename=changing").headers["ETag"] == first
    path.write_bytes(b"two")
    answer = nosafe.request("GET", "/get-file?filename=changing", headers={"If-None-Match": first})
    assert (answer.status, answer.body) == (200, b"two")
    assert answer.headers["ETag"] != first


def test_if_range_gives_the_range_of_this_version_only(nosafe, alphabet):
    headers = nosafe.request("GET", "/get-file?filename=alphabet").headers
    for condition, status in [
        (headers["ETag"], 206),
        (headers["Last-Modified"], 206),
        ('"x"', 200),
        ("W/" + headers["ETag"], 200),  # the comparison is a strong one
        ("Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ("nonsense", 200),
        ("", 200),
    ]:
        ask = {"Range": "bytes=0-4", "If-Range": condition}
        answer = nosafe.request("GET", "/get-file?filename=alphabet", headers=ask)
        assert (answer.status, len(answer.body)) == (status, 5 if status == 206 else 26), condition
    answer = nosafe.request("GET", "/get-file?filename=alphabet", headers={"If-Range": headers["ETag"]})
    assert answer.status == 200


def test_the_size_of_a_chunk_is_bounded_before_its_data_comes(nosafe):
    with Wire(nosafe) as wire:
        wire.send(request("POST /execcmd?cmd=cat HTTP/1.1", CHUNKED), b"1" + b"0" * 15 + b"\r\n")
        assert wire.answer().status == 400


def test_much_that_came_in_time_does_not_buy_more_than_the_idle_time(nosafe):
    here, there = socket.socketpair()
    with here, there:
        connection = mycodeinterpreter.Connection(here)
        connection.patience = mycodeinterpreter.IDLE_TIMEOUT
        there.sendall(b"x" * 100000)
        connection.readinto(memoryview(bytearray(100000)))
        assert connection.patience <= mycodeinterpreter.IDLE_TIMEOUT


def test_files_that_differ_in_anything_have_tags_of_their_own(nosafe):
    path, tags = nosafe.directory / "tagged", set()
    for number in range(3):  # the second differs in a nanosecond alone, the third in being another
        if number != 1:
            other = nosafe.directory / ("tagged%d" % number)
            other.write_bytes(b"x")
            other.replace(path)
        os.utime(str(path), ns=(10**18, 10**18 + min(number, 1)))
        tags.add(nosafe.request("HEAD", "/get-file?filename=tagged").headers["ETag"])
    assert len(tags) == 3


def test_a_directory_can_not_add_a_header(start, tmp_path):
    temporary = tmp_path / "a\r\nX-Evil: 1"
    temporary.mkdir()
    daemon = start("noauth", "-nosafe", env={"TMPDIR": str(temporary)})
    answer = daemon.request("POST", "/execcmd?cmd=seq%20100000", b"")
    assert answer.headers["X-Evil"] is None and "\\r\\nX-Evil: 1" in answer.headers["X-Log"]


def test_100_is_not_sent_for_an_upload_of_nothing(nosafe):
    headers = ["Content-Type: multipart/form-data; boundary=b", "Content-Length: 0", "Expect: 100-continue"]
    data = request("POST /send-file HTTP/1.1", *headers)
    following = request("GET /nothing HTTP/1.1", "Connection: close")
    assert [answer.status for answer in exchange(nosafe, data + following)] == [400, 404]
