"""Properties of the pure functions and the chunk decoder: whatever comes in, a sentence or the right value comes out.

The multipart parser and base_name have theirs in test_files.py, visible in test_gate.py; fuzz.py digs deeper.
"""

import base64
import re
import socket
import time

import hypothesis
import pytest
from hypothesis import strategies as st

import mycodeinterpreter as program

many = hypothesis.settings(deadline=None, database=None, derandomize=True, max_examples=200)
some = hypothesis.settings(many, max_examples=60)

# st.text and st.characters would leave tables of Unicode on the disk.
LETTERS = "aZ0 .-_;=,:/\\'\"%*+&<>?\t\r\n\0[]\u00e9\u20ac\u6f22\U0001f600\u202e\u0301\x7f"
texts = st.lists(st.sampled_from(LETTERS), max_size=30).map("".join)


def mixed(*pieces):
    """Bytes that are mostly made of the pieces."""
    return st.lists(st.one_of(st.sampled_from(pieces), st.binary(max_size=3)), max_size=15).map(b"".join)


def header_values(*pieces):
    """What parse_head lets through as a header's value, made of the pieces and whatever else."""
    anything = st.lists(st.integers(0x20, 0xFF).filter(lambda code: code != 0x7F).map(chr), max_size=4).map("".join)
    return st.lists(st.one_of(st.sampled_from(pieces), anything), max_size=12).map(lambda p: "".join(p).strip(" \t"))


def result(function, *arguments):
    """What the function returns, or the HTTPError that it raises; any other exception fails the test."""
    try:
        return function(*arguments)
    except program.HTTPError as error:
        assert 400 <= error.status < 500 and error.message
        error.message.encode("latin-1", "replace")
        return error


def same_head(one, other):
    """Whether two of parse_head's results are the same, but for the space in "a, " where a second value is empty."""
    fields = [{name: value.rstrip(" ") for name, value in found[3].items()} for found in (one, other)]
    return one[:3] == other[:3] and fields[0] == fields[1]


def mutated(strategy):
    """Bytes that the strategy makes, with a few changes."""
    telling = [b"", b"\r\n"] + [bytes([byte]) for byte in b"\r\n05x_+ \t:;\0\x0b\x7f\xff"]
    change = st.tuples(st.integers(0, 1 << 16), st.integers(0, 2), st.sampled_from(telling))
    return st.builds(changed, strategy, st.lists(change, max_size=3))


def changed(data, changes):
    """Bytes in which some are left out and others put in: (where, how many, which)."""
    for at, length, inserted in changes:
        at %= len(data) + 1
        data = data[:at] + inserted + data[at + length :]
    return data


# The request head


def head_of(method, target, version, headers):
    lines = ["%s %s HTTP/%s" % (method, target, version)] + ["%s: %s" % header for header in headers.items()]
    return "\r\n".join(lines).encode("latin-1")


heads = mixed(
    *(b"GET / HTTP/1.1\r\nHost: a", b"POST /x HTTP/1.0", b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b": ", b"Host: b"),
    *(b"GET", b"/", b" HTTP/1.1", b"HTTP/1.2", b"X-A", b"x-a: 1", b"\r\n ", b"Content-Length: 1", b"\0"),
    *(b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Content-Type: a", b"\x7f", b"\xff")
)


tokens = st.lists(st.sampled_from("!#$%&'*+.^_`|~09AZaz-"), min_size=1, max_size=20).map("".join)
values = st.lists(st.sampled_from("!az AZ\t~:,;\"\\\x80\xff"), max_size=20).map("".join)
values = values.map(lambda value: value.strip(" \t"))
targets = st.lists(st.sampled_from("/?&%=aZ~!\x80\xff"), min_size=1, max_size=20).map("".join)
fields = st.dictionaries(tokens.map(str.lower), values, max_size=8).map(lambda found: dict({"host": "a"}, **found))
good_heads = st.builds(head_of, tokens, targets, st.sampled_from(["1.0", "1.1"]), fields)


@many
@hypothesis.given(st.one_of(heads, mutated(good_heads)))
@hypothesis.example(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a")
@hypothesis.example(b"GET / HTTP/1.1\r\nhost: a\r\nContent-Length: 1\r\ncontent-length: 1")
@hypothesis.example(b"GET / HTTP/1.1\r\nHost: a\x7f")
def test_a_head_is_refused_or_means_one_thing(head):
    found = result(program.parse_head, head)
    if not isinstance(found, program.HTTPError):
        assert same_head(program.parse_head(head_of(*found)), found)
        method, target, version, headers = found
        assert head.startswith(("%s %s HTTP/%s" % (method, target, version)).encode("latin-1"))
        assert not re.search(r"[\0-\x20\x7f]", method + target) and version in ("1.0", "1.1")
        for name in "host", "content-length", "transfer-encoding":
            assert head.lower().count(b"\r\n%s:" % name.encode()) == (name in headers)
        for name, value in headers.items():
            assert re.match(r"[!#$%&'*+.^_`|~0-9a-z-]+\Z", name)
            assert not re.search(r"[\0-\x08\x0a-\x1f\x7f]", value) and value == value.lstrip(" \t")


@some
@hypothesis.given(tokens, targets, st.sampled_from(["1.0", "1.1"]), fields)
def test_a_good_head_comes_out_as_it_went_in(method, target, version, headers):
    assert program.parse_head(head_of(method, target, version, headers)) == (method, target, version, headers)


# Chunks


class Wire:
    """A stand-in for a socket that hands out some blocks of bytes, one at a time, then the end."""

    def __init__(self, blocks):
        self.blocks = [bytes(block) for block in blocks if block]

    def setsockopt(self, level, option, timeval):
        assert timeval.strip(b"\0")  # zero would be for ever

    def recv(self, size):
        block = self.blocks.pop(0) if self.blocks else b""
        if block[size:]:
            self.blocks.insert(0, block[size:])
        return block[:size]

    def recv_into(self, view):
        block = self.recv(len(view))
        view[: len(block)] = block
        return len(block)


@pytest.mark.parametrize(
    "value",
    [b" " * 400000 + b"\0", b"\t " * 200000, b"a " * 200000 + b"\x7f", b'"' * 400000, b"b\r\nc:d" * 60000 + b"\0"],
    ids=["blanks", "tabs", "words", "quotes", "lines"],
)
def test_no_header_costs_more_than_its_length(value):
    began = time.process_time()
    result(program.parse_head, b"GET / HTTP/1.1\r\nHost: x\r\na:" + value)
    assert time.process_time() - began < 2


def test_a_head_in_many_pieces_costs_no_more_than_in_one():
    connection = program.Connection(Wire([b"G" * 60000] * 8 + [b"x"] * 3000))
    began = time.process_time()
    assert connection.head() is None
    assert time.process_time() - began < 2


def decoded(sock, size=1000):
    """(data, what is left on the connection) of a chunked body, read into views of a size."""
    connection, data, view = program.Connection(sock), b"", memoryview(bytearray(size))
    body = program.Body(connection, "1.1", {"transfer-encoding": "chunked"})
    while True:
        count = body.readinto(view)
        if not count:
            break
        data += view[:count]
    assert body.done
    rest = bytes(connection.pending)
    while connection.fill():
        rest = bytes(connection.pending)
    return data, rest


def encoded(chunks, extension=b"", trailers=()):
    """The chunked body of some chunks."""
    lines = [b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks if chunk]
    return b"".join(lines) + b"0\r\n" + b"".join(trailer + b"\r\n" for trailer in trailers) + b"\r\n"


def cut(data, cuts):
    """data in pieces."""
    at = [0] + sorted(c % (len(data) + 1) for c in cuts) + [len(data)]
    return [data[start:stop] for start, stop in zip(at, at[1:])]


contents = st.one_of(st.binary(max_size=60), mixed(b"\r\n", b"0\r\n\r\n", b"\r", b"\n", b"5\r\n"))
chunkings = st.lists(contents, max_size=6)
splits = st.lists(st.integers(0, 1 << 16), max_size=8)
behind = st.sampled_from([b"", b"GET /next HTTP/1.1\r\n\r\n", b"\r\n", b"0\r\n\r\n"])


@many
@hypothesis.given(
    chunkings,
    st.sampled_from([b"", b";a=b", b' ;x="y"', b"\t"]),
    st.lists(st.sampled_from([b"X-A: b", b"Content-Length: 5", b"a"]), max_size=3),
    *(behind, splits, st.sampled_from([1, 2, 7, 1000]))
)
def test_chunks_decode_to_their_data_however_they_arrive(chunks, extension, trailers, rest, cuts, size):
    wire = Wire(cut(encoded(chunks, extension, trailers) + rest, cuts))
    assert decoded(wire, size) == (b"".join(chunks), rest)


@some
@hypothesis.given(chunkings)
def test_chunks_that_are_cut_off_are_refused_wherever_that_is(chunks):
    body = encoded(chunks)
    for stop in range(len(body)):
        with pytest.raises(program.HTTPError) as error:
            decoded(Wire([body[:stop]]))
        assert error.value.status == 400


def naive(data):
    """(data, rest) of a chunked body by RFC 9112 7.1, as strict as we are; None where it is malformed."""
    found = b""
    while True:
        line = re.match(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n", data)
        if not line:
            return None
        size, data = int(line.group(1), 16), data[line.end() :]
        if not size:
            trailers = re.match(rb"(?:[^\r\n]+\r\n)*\r\n", data)
            return (found, data[trailers.end() :]) if trailers else None
        if len(data) < size + 2 or data[size : size + 2] != b"\r\n":
            return None
        found, data = found + data[:size], data[size + 2 :]


@many
@hypothesis.given(mutated(chunkings.map(encoded)), splits)
@hypothesis.example(b"0x5\r\nhello\r\n0\r\n\r\n", [])
@hypothesis.example(b"0_5\r\nhello\r\n0\r\n\r\n", [])
@hypothesis.example(b"5;a\rb\r\nhello\r\n0\r\n\r\n", [])
@hypothesis.example(b"5\r\nhello!\r\n0\r\n\r\n", [])
@hypothesis.example(b"5\nhello\r\n0\r\n\r\n", [])
@hypothesis.example(b"5\r\nhello\r\n0\r\nX: y\n\r\n", [])
def test_mutated_chunks_are_refused_or_mean_what_a_naive_decoder_finds(body, cuts):
    expected, found = naive(body), result(decoded, Wire(cut(body, cuts)))
    if expected is None:
        assert isinstance(found, program.HTTPError) and found.status == 400
    else:
        assert found == expected


@some
@hypothesis.given(st.binary(max_size=300), st.integers(1, 50))
def test_chunks_come_through_a_real_socket(data, size):
    one, other = socket.socketpair()
    with one, other:
        one.sendall(encoded([data[at : at + size] for at in range(0, len(data), size)]) + b"rest")
        one.shutdown(socket.SHUT_WR)
        assert decoded(other) == (data, b"rest")


lengths = st.none() | st.sampled_from(["0", "5"]) | (
    header_values("0", "5", "-1", "+5", " ", "0x5", "1_0", ",", "\xb2", "9" * 19)
)
codings = st.none() | st.sampled_from(["chunked", "Chunked", "gzip"]) | (
    header_values("chunked", "Chunked", "gzip", ", ", "identity", "\x0b")
)


@some
@hypothesis.given(lengths, codings, st.sampled_from(["1.0", "1.1"]))
def test_a_bodys_framing_is_refused_or_unambiguous(length, coding, version):
    headers = {"content-length": length, "transfer-encoding": coding}
    headers = {name: value for name, value in headers.items() if value is not None}
    body = result(program.Body, program.Connection(Wire([])), version, headers)
    if isinstance(body, program.HTTPError):
        assert body.status == 400 and headers
    else:
        assert len(headers) <= 1 and (coding is None or version == "1.1")
        assert body.length == (None if coding else int(length) if length else 0)
        assert not length or re.match(r"[0-9]+\Z", length, re.A)


# Parameters


def quoted(data):
    """Bytes as a form has them."""
    return re.sub(rb"[^A-Za-z0-9]", lambda match: b"%%%02x" % ord(match.group()), data).replace(b"%20", b"+")


@some
@hypothesis.given(st.lists(st.tuples(texts.filter(bool), st.binary(max_size=20)), max_size=5))
def test_a_form_comes_out_as_it_went_in(pairs):
    form = b"&".join(quoted(name.encode()) + b"=" + quoted(value) for name, value in pairs)
    assert program.form_pairs(form) == pairs


names = st.sampled_from([b"cmd", b"stdin", b"wait", b"limit", b"cmd", b"other", b"c%6dd"])
some_values = st.sampled_from([b"1", b"x", b"", b"%00", b"%ff", b"0.5", b"-1", b"%26"])
queries = st.lists(st.tuples(names, some_values).map(b"=".join), max_size=4).map(b"&".join)


@many
@hypothesis.given(queries | mixed(b"cmd", b"stdin", b"=", b"&", b"%", b"%4", b"6", b"%00", b"%ff", b"+", b"1", b"."))
def test_parameters_are_refused_or_all_there(query):
    """Whatever the query: no pair is lost, none comes twice, none is unknown."""
    pairs = program.form_pairs(query)
    assert len(pairs) == len([pair for pair in query.split(b"&") if pair])
    names = [name for name, _ in pairs]
    found = result(program.parameters, ("cmd", "stdin", "wait", "limit"), pairs)
    good = len(set(names)) == len(names) and set(names) <= {"cmd", "stdin", "wait", "limit"}
    assert good == (not isinstance(found, program.HTTPError))
    assert found == dict(pairs) if good else found.status == 400
    arguments = result(program.command_arguments, pairs)
    if not isinstance(arguments, program.HTTPError):
        command, stdin, wait, limit = arguments
        assert command.encode() == found["cmd"] and "\0" not in command and stdin == found.get("stdin", b"")
        assert all(value is None or 0 <= value < 1e16 for value in (wait, limit))


json_texts = mixed(
    *(b"{", b"}", b'"cmd"', b'"wait"', b'"limit"', b":", b",", b'"x"', b"1", b"-1", b"1e999", b"NaN", b"null", b"true"),
    *(b"[", b"]", b'"\\ud800"', b'{"cmd": "x"}', b'{"cmd": "x", "cmd": "y"}', b'{"cmd": "x", "limit": 5}', b" ")
)


@some
@hypothesis.given(json_texts)
@hypothesis.example(b"[" * 100000)
@hypothesis.example(b'{"a":' * 100000)
@hypothesis.example(b'{"limit": ' + b"9" * 10000 + b"}")
@hypothesis.example(b'{"cmd": "\\ud800"}')
@hypothesis.example(b"\xef\xbb\xbf{}")
@hypothesis.example(b'{"filename": "\\ud800", "content": "x"}')
def test_json_is_refused_or_an_object(data):
    for function, kind in (program.json_pairs, list), (program.json_object, dict):
        found = result(function, data)
        assert isinstance(found, (program.HTTPError, kind))
    pairs = result(program.json_pairs, data)
    if isinstance(pairs, list):
        assert all(isinstance(name, str) and isinstance(value, bytes) for name, value in pairs)
        result(program.command_arguments, pairs)


def test_who_has_used_up_its_time_is_408_however_fast_it_goes_on():
    connection = program.Connection(Wire([b"x"]))
    connection.patience = 0
    with pytest.raises(program.HTTPError) as caught:
        connection.fill()
    assert caught.value.status == 408


# Headers


ranges = header_values("bytes=", "bytes", "-", ",", "0", "1", "5", "9" * 18, "9" * 19, " ", "=", "\xb2")


@many
@hypothesis.given(ranges, st.integers(0, 12))
def test_a_range_lies_within_the_file(header, size):
    found = result(program.byte_range, header, size)
    if isinstance(found, program.HTTPError):
        assert found.status == 416
        assert ("Content-Range", "bytes */%d" % size) in found.headers
    elif found is not None:
        assert 0 <= found[0] < found[1] <= size


@some
@hypothesis.given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 25))
def test_a_range_is_the_one_asked_for(first, last, size):
    data = bytes(range(size))
    asked = {
        "bytes=%d-%d" % (first, last): None if last < first else data[first : last + 1],
        "bytes=%d-" % first: data[first:],
        "bytes=-%d" % last: data[len(data) - min(last, size) :],
    }
    for header, expected in asked.items():
        found = result(program.byte_range, header, size)
        if expected is None or not size and header.startswith("bytes=-"):  # the last bytes of nothing are all of it
            assert found is None
        elif not expected:
            assert found.status == 416
        else:
            assert data[slice(*found)] == expected


part_heads = mixed(
    *(b"\r\n", b"Content-Disposition: form-data", b"content-disposition:", b"; name=", b"; filename=", b";filename*="),
    *(b'"', b"\\", b'\\"', b"utf-8''", b"UTF-8'en'", b"%", b"%ff", b"%41", b"a", b";", b"=", b"\xc3\xa9")
)


@many
@hypothesis.given(part_heads)
@hypothesis.example(b'Content-Disposition: form-data; filename="' + b'\\"' * 4000)
@hypothesis.example(b"Content-Disposition: form-data" + b";" * 8000)
@hypothesis.example(b"Content-Disposition: form-data; " + b" " * 8000)
@hypothesis.example(b"Content-Disposition: form-data; " + b"a=;" * 2600)
def test_the_head_of_a_part_is_refused_or_names_it(head):
    found = result(program.part_names, head)
    if isinstance(found, program.HTTPError):
        assert found.status == 400
    else:
        assert all(value is None or isinstance(value, str) and value.encode() is not None for value in found)


plain_names = st.lists(st.sampled_from("aZ0 .-_;=,:/%'*+&\u00e9\u20ac\""), min_size=1, max_size=20).map("".join)


@some
@hypothesis.given(plain_names, plain_names, st.booleans())
def test_the_names_of_a_part_come_out_as_they_went_in(name, filename, plain_first):
    def in_quotes(text):
        return '"%s"' % text.replace('"', '\\"')

    extended = "; filename*=UTF-8''" + quoted(filename.encode()).decode().replace("+", "%20")
    plain = "; filename=" + in_quotes(filename)
    head = "Content-Disposition: form-data; name=" + in_quotes(name)
    assert program.part_names((head + plain).encode()) == (name, filename)
    assert program.part_names((head + extended).encode()) == (name, filename)
    other = "; filename*=utf-8''other"  # of the two the plain one counts
    both = plain + other if plain_first else other + plain
    assert program.part_names((head + both).encode()) == (name, filename)


@some
@hypothesis.given(
    st.binary(max_size=20).filter(lambda user: b":" not in user),
    st.binary(max_size=20),
    st.sampled_from(["Basic", "basic", "BASIC"]),
)
def test_credentials_come_out_as_they_went_in(user, password, scheme):
    value = base64.b64encode(user + b":" + password).decode()
    assert program.credentials("%s %s" % (scheme, value)) == (user, password)
    assert program.credentials("%s   %s\t" % (scheme, value)) == (user, password)
    assert program.credentials("Bearer " + value) is None
    assert program.credentials(value) is None
    if user:
        assert program.credentials("%s %s" % (scheme, base64.b64encode(user).decode())) is None


@many
@hypothesis.given(
    header_values("Basic ", "basic", " ", "dTpw", "dTpw=", "=", "dTo", "Og==", "\xff", "_-", ",", "\t")
    | header_values("dTpw", "=", "!", "_", "Og==", "\xff").map("Basic ".__add__)
)
def test_no_header_makes_credentials_fail(header):
    found = program.credentials(header)
    assert found is None or all(isinstance(one, bytes) for one in found)
    if found:
        assert re.match(r"(?i)basic [ \t]*[a-z0-9+/]+=*\Z", header)


accepts = header_values(
    *("application/json", "text/plain", "*/*", ",", ";", "q=", ";q=0.5", ";q=0", ";q=1.000", ";q=0.0001", ";q=2"),
    *("q=nan", ";q=inf", ";Q=1", " ", ";q=\xb9", "json", ";q=1.")
)


@many
@hypothesis.given(accepts)
def test_no_accept_header_makes_the_choice_fail(accept):
    assert program.prefers_json(accept) in (True, False)
    if "application/json" not in accept.lower().replace(" ", ""):
        assert not program.prefers_json(accept)


kinds_of_media = st.sampled_from(["application/json", "text/plain", "*/*"])


@some
@hypothesis.given(st.lists(st.tuples(kinds_of_media, st.integers(0, 10)), min_size=1))
def test_json_is_preferred_where_its_weight_is_the_first_highest(kinds):
    accept = ", ".join("%s;q=%.1f" % (kind, weight / 10) for kind, weight in kinds)
    best = max(weight for _, weight in kinds)
    first = next(kind for kind, weight in kinds if weight == best)
    assert program.prefers_json(accept) == (first == "application/json" and best > 0)


hosts = header_values(
    *("localhost", "127.0.0.1", "[::1]", "[", "]", ":", "8000", "999999", ".", "A.example", "@", "/", "\xe9", " ")
)


@many
@hypothesis.given(hosts)
def test_no_authority_makes_its_host_fail(authority):
    host = program.host_of(authority)
    if host is not None:
        assert host == host.lower() and not host.endswith(".") and not re.search(r"[^0-9a-z.:_~-]", host)
        assert authority.lower().lstrip("[").startswith(host)


@some
@hypothesis.given(
    st.sampled_from(["localhost", "a.example", "127.0.0.1", "[::1]", "[2001:DB8::1]", "A-B.Example", "x_y"]),
    st.sampled_from(["", ":", ":0", ":8000", ":65535"]),
)
def test_the_host_of_an_authority_has_neither_port_nor_brackets(host, port):
    assert program.host_of(host + port) == host.lower().strip("[]")
    if not host.startswith("["):
        assert program.host_of(host + "." + port) == host.lower()
    for wrong in "@", "/", " ", "\\", "%", "\r\n", "\x00":
        assert program.host_of(host + wrong + port) is None


@many
@hypothesis.given(st.binary(max_size=30))
def test_no_target_makes_percent_decoding_fail(data):
    assert program.unquote(program.percent(data.decode("utf-8", "surrogateescape")).encode()) == data
    assert len(program.unquote(data)) <= len(data)
    result(program.text_of, data, "x")
    number = result(program.number_of, data, "x")
    assert isinstance(number, program.HTTPError) or 0 <= number < 1e16
