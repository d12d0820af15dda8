"""Coverage-guided fuzzing (atheris) of what reads a stranger's bytes: python3 tests/fuzz.py head|chunks|multipart.

Further arguments go to libFuzzer, such as -max_total_time=60 or a file to try again. Each target holds the program to
a decoder that is as simple as can be, or to what it says itself of the same bytes in other pieces. What fails is
printed, and written to a file below the temporary directory.
"""

import os
import pathlib
import re
import shutil
import sys
import tempfile

import atheris

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
with atheris.instrument_imports(include=["mycodeinterpreter"]):
    import mycodeinterpreter as program

from test_properties import Wire, decoded, encoded, head_of, naive, same_head  # noqa: E402

BOUNDARY = b"b"
PART = b'--b\r\nContent-Disposition: form-data; name="a"; filename="f"\r\n\r\n'


def head(data):
    """Refused, or its parts put together mean the same; and what reads its parts does not fail."""
    try:
        found = program.parse_head(data)
    except program.HTTPError as error:
        assert error.status in (400, 431) and error.message
        return
    assert same_head(program.parse_head(head_of(*found)), found)
    assert not re.search(r"[\0-\x08\x0a-\x1f\x7f]", "".join(found[:3]) + "".join(found[3]) + "".join(found[3].values()))
    authority = found[3].get("host", "")
    program.host_of(authority)
    program.credentials(found[3].get("authorization", ""))
    program.prefers_json(found[3].get("accept", ""))
    for function, *arguments in (
        (program.byte_range, found[3].get("range", ""), len(data)),
        (program.Body, program.Connection(Wire([])), found[2], found[3]),
        (program.parameters, ("cmd",), program.form_pairs(found[1].encode("latin-1"))),
    ):
        try:
            function(*arguments)
        except program.HTTPError as error:
            assert error.status in (400, 416)


def pieces(data):
    """What follows the first byte, cut in pieces of that many bytes; in one piece where it is zero."""
    size, data = data[0] if data else 0, data[1:]
    return data, [data[at : at + size] for at in range(0, len(data), size)] if size else [data]


def chunks(data):
    """Refused, or what a naive decoder finds."""
    data, blocks = pieces(data)
    expected = naive(data)
    try:
        found = decoded(Wire(blocks), 1 + len(data) % 50)
    except program.HTTPError as error:
        assert error.status == 400 and expected is None, "refused, though it means %r" % (expected,)
    else:
        assert found == expected, "%r, not %r" % (found, expected)


def naive_multipart(body):
    """[(head, data)] of a multipart body; None where it is malformed."""
    delimiter, text, found = re.compile(rb"\r\n--" + BOUNDARY + rb"(?:(--)|(?=\r\n))"), b"\r\n" + body, []
    at = delimiter.search(text)
    while at and not at.group(1):
        close = text.find(b"\r\n\r\n", at.end())
        if not 0 <= close - at.end() <= 8192:
            return None
        begin, following = close + 4, delimiter.search(text, close + 4)
        if not following:
            return None
        found.append((text[at.end() : close], text[begin : following.start()]))
        at = following
    return found if at else None


def multipart(data):
    """Refused, or what a naive parser finds."""
    data, blocks = pieces(data)
    wire, found, expected = Wire(blocks), [], naive_multipart(data)
    try:
        if expected is not None:
            expected = [program.part_names(head) + (data,) for head, data in expected]
    except program.HTTPError:
        expected = None
    try:
        for event in program.multipart("multipart/form-data; boundary=b", wire.recv_into):
            if isinstance(event, tuple):
                found.append(event + (b"",))
            else:
                assert len(event)
                found[-1] = found[-1][:2] + (found[-1][2] + event,)
        assert not wire.blocks, "the epilogue is left unread"
    except program.HTTPError as error:
        assert error.status == 400 and expected is None, "refused, though it means %r" % (expected,)
    else:
        assert found == expected, "%r, not %r" % (found, expected)


SEEDS = {
    head: [
        b"GET / HTTP/1.1\r\nHost: a",
        b"POST /execcmd?cmd=ls%20-l+x&wait=5 HTTP/1.0\r\nContent-Length: 5\r\nAccept: application/json;q=0.5, text/*",
        b"POST http://[::1]:80/ HTTP/1.1\r\nHost: b:1\r\nTransfer-Encoding: chunked\r\nAuthorization: Basic dTpw",
        b"GET /get-file?filename=f HTTP/1.1\r\nHost: a\r\nRange: bytes=1-2\r\nX-A: b\r\nX-A: c\r\nExpect: 100-continue",
    ],
    chunks: [
        b"\0" + encoded([b"abc", b"d" * 20, b"\r\n0\r\n\r\n"]),
        b"\1" + encoded([b"abc"], b" ;x=y", [b"X-A: b"]) + b"GET / HTTP/1.1\r\n",
        b"\3" + encoded([]),
    ],
    multipart: [
        b"\0" + PART + b"data\r\n--b--\r\n",
        b"\1preamble\r\n" + PART + b"\r\n--bb\r\n--\r\n" + PART + b"\r\n--b--\r\nepilogue\r\n--b--",
        b"\5--b\r\n\r\n\r\n--b\r\nContent-Disposition: x; filename*=UTF-8''%41\r\n\r\n\r\n--b--",
    ],
}


def main():
    targets = {target.__name__: target for target in SEEDS}
    target = targets.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if not target:
        sys.exit("usage: fuzz.py %s [libFuzzer's arguments]" % "|".join(targets))
    again = any(os.path.isfile(argument) for argument in sys.argv[2:])
    directory = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-%s-" % target.__name__))
    (directory / "corpus").mkdir()
    for number, seed in enumerate(SEEDS[target]):
        (directory / "corpus" / str(number)).write_bytes(seed)
    child = os.fork()  # libFuzzer ends the process that it runs in
    if not child:
        options = ["-artifact_prefix=%s/" % directory, "-verbosity=0", "-print_final_stats=1", "-timeout=10"]
        options += ["-max_len=4096"] + ([] if again else [str(directory / "corpus")])
        atheris.Setup(sys.argv[:1] + options + sys.argv[2:], target)
        atheris.Fuzz()
    status = os.waitpid(child, 0)[1]
    shutil.rmtree(str(directory / "corpus"))
    if not list(directory.iterdir()):
        directory.rmdir()
    sys.exit(1 if status else 0)


if __name__ == "__main__":
    main()
