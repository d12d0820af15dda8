"""What becomes of a file that is sent: all of it under its own name, or nothing; and that it comes back the same."""

import functools
import http.client
import json
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import threading
import urllib.parse

import hypothesis
import hypothesis.strategies as st
import pytest
from conftest import wait_for

import mycodeinterpreter

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is missing: apt-get install curl")
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="looks into /proc, which Linux has")
as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may mount")

KIND = "multipart/form-data; boundary="
TRICKY = b"\r\n--b\r\r\n\n--b-\r\n--b-x\r\n--bb\r\n-\r\n--\r\n--B\r\n--b \r\n\r\n\0--b--"  # with the boundary b


def part(data, disposition='form-data; name="document"; filename="name"', head=b""):
    """A part, its Content-Disposition (str or bytes) and its data (bytes)."""
    disposition = disposition if isinstance(disposition, bytes) else disposition.encode()
    return b"Content-Disposition: " + disposition + b"\r\n" + head + b"\r\n" + data


def named(name, data):
    """A part that is a file with a plain name."""
    return part(data, 'form-data; name="file"; filename="%s"' % name)


def body_of(*parts, **shape):
    """A multipart body; boundary, preamble, epilogue as bytes."""
    boundary = shape.get("boundary", b"b")
    lines = shape.get("preamble", b"") + b"".join(b"--" + boundary + b"\r\n" + one + b"\r\n" for one in parts)
    return lines + b"--" + boundary + b"--" + shape.get("epilogue", b"\r\n")


def send(daemon, body, kind=KIND + "b", headers=()):
    """Sends a body, chunked where it is an iterator; the Answer."""
    return daemon.request("POST", "/send-file", body, dict(headers, **{"Content-Type": kind}))


def fetch(daemon, name):
    """A file's bytes, by get-file."""
    answer = daemon.request("GET", "/get-file?" + urllib.parse.urlencode({"filename": name}))
    assert answer.status == 200, answer
    return answer.body


def stored(daemon):
    """{name: bytes} of all that lies in the working directory, hidden files too; takes the files away."""
    found = {}
    for path in sorted(daemon.directory.iterdir()):
        found[path.name] = path.read_bytes()
        path.unlink()
    return found


def curl(daemon, *arguments):
    """Runs curl for send-file; (status, output)."""
    command = ["curl", "-sS", "-w", "\n%{http_code}", "http://127.0.0.1:%d/send-file" % daemon.port]
    output = subprocess.check_output(command + [str(argument) for argument in arguments])
    return int(output.rpartition(b"\n")[2]), output.rpartition(b"\n")[0].decode()


# As clients send it


@needs_curl
@pytest.mark.parametrize("chunked", [(), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect: 100-continue")])
@pytest.mark.parametrize("field", ["document", "file", "anything"])
def test_curl_stores_a_file(nosafe, tmp_path, field, chunked):
    data = os.urandom(100000) + TRICKY
    (tmp_path / "a name.bin").write_bytes(data)
    status, text = curl(nosafe, "-F", "%s=@%s" % (field, tmp_path / "a name.bin"), *chunked)
    assert status == 200 and "a name.bin" in text and str(len(data)) in text
    assert fetch(nosafe, "a name.bin") == data
    assert stored(nosafe) == {"a name.bin": data}


@needs_curl
def test_curl_stores_several_files_and_leaves_fields_out(nosafe, tmp_path):
    for name in "one", "two", "three":
        (tmp_path / name).write_text(name * 1000)
    files = ["-F", "document=@%s" % (tmp_path / "one"), "-F", "file=@%s" % (tmp_path / "two")]
    files += ["-F", "comment=no file", "-F", "third=@%s;filename=dir/renamed;type=text/html" % (tmp_path / "three")]
    assert curl(nosafe, *files)[0] == 200
    assert stored(nosafe) == {"one": b"one" * 1000, "two": b"two" * 1000, "renamed": b"three" * 1000}


LONG = "'()+_,-./:=? " + "0123456789" * 5 + "abcdefg"  # 70 characters, all kinds that RFC 2046 allows


@pytest.mark.parametrize(
    "kind, shape",
    [
        ("b", {}),
        ("b", {"epilogue": b""}),
        ("b", {"epilogue": b"\r\n--b\r\nthis is\r\n--b--\r\nan epilogue"}),
        ("b", {"epilogue": b"\r\n" + b"e" * 3000000}),
        ("b", {"preamble": b"\r\n"}),
        ("b", {"preamble": b"This is a preamble with --b and\r\n--bb in it.\r\n"}),
        ("b", {"preamble": b"p" * 3000000 + b"\r\n"}),
        ('"b"', {}),
        ('"%s"' % LONG, {"boundary": LONG.encode()}),
        ("x" + "-" * 69, {"boundary": b"x" + b"-" * 69}),
        ("b; charset=utf-8", {}),
        ('"b c";charset=utf-8', {"boundary": b"b c"}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_every_shape_of_a_body_is_understood(nosafe, kind, shape):
    boundary = shape.get("boundary", b"b")
    files = {
        "tricky": TRICKY.replace(b"b", boundary),
        "empty": b"",
        "end": b"\r\n\r",
        "dashes": b"--" * 5000 + b"\r\n--",
    }
    answer = send(nosafe, body_of(*[named(name, files[name]) for name in files], **shape), KIND + kind)
    assert (answer.status, stored(nosafe)) == (200, files), answer


@pytest.mark.parametrize("kind", ["multipart/form-data;boundary=b", "Multipart/Form-Data; charset=x; BOUNDARY=b"])
def test_the_content_type_may_be_written_otherwise(nosafe, kind):
    assert send(nosafe, body_of(named("n", b"1")), kind).status == 200 and stored(nosafe) == {"n": b"1"}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_chunks_may_be_cut_anywhere(nosafe, size):
    body = body_of(named("tricky", TRICKY), part(b"field", 'form-data; name="x"'), preamble=b"pre\r\n")
    answer = send(nosafe, (body[at : at + size] for at in range(0, len(body), size)))
    assert (answer.status, stored(nosafe)) == (200, {"tricky": TRICKY})


def test_fields_are_ignored_and_many_parts_are_not_too_many(nosafe):
    files = {"name%d" % n: b"%d" % n * n for n in range(200)}
    parts = [part(b"x" * 10000, 'form-data; name="document"')]
    for name in files:
        parts += [named(name, files[name]), part(b"not a file", "form-data; name=field")]
    assert send(nosafe, body_of(*parts)).status == 200
    assert stored(nosafe) == files


def test_of_two_files_with_one_name_neither_is_stored(nosafe):
    answer = send(nosafe, body_of(named("one", b"1"), named("two", b"2"), named("./one", b"3")))
    assert answer.status == 400 and b"one name" in answer.body and stored(nosafe) == {}


def test_of_several_files_none_is_stored_where_one_finds_its_place_changed(nosafe):
    tail = b"\r\n--b--\r\n"
    head = body_of(named("first", b"1"), named("second", b"begun"))[: -len(tail)]
    with nosafe.connect() as sock:
        sock.sendall(
            b"POST /send-file HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(head + tail), head)
        )
        wait_for(lambda: len(os.listdir(str(nosafe.directory))) == 2, what="the temporary files")
        (nosafe.directory / "second").write_text("meanwhile")
        sock.sendall(tail)
        assert sock.recv(65536).startswith(b"HTTP/1.1 403 ")
    assert stored(nosafe) == {"second": b"meanwhile"}


def test_the_heads_of_a_part_may_have_more_lines(nosafe):
    more = (
        b"Content-Type: text/html; filename=no\r\nX-Long: " + b"x" * 3000 + b"\r\ncontent-transfer-encoding: binary\r\n"
    )
    body = b"--b\r\n" + more + part(b"1", head=more) + b"\r\n--b--"
    assert send(nosafe, body).status == 200 and stored(nosafe) == {"name": b"1"}


def test_one_connection_carries_one_upload_after_another(nosafe):
    connection = http.client.HTTPConnection("127.0.0.1", nosafe.port, timeout=60)
    for number in range(5):
        connection.request("POST", "/send-file", body_of(named("n%d" % number, b"1")), {"Content-Type": KIND + "b"})
        response = connection.getresponse()
        assert response.status == 200 and b"n%d" % number in response.read()
    connection.close()
    assert len(stored(nosafe)) == 5


# Names


@pytest.mark.parametrize(
    "names, name",
    [
        ('filename="plain.txt"', "plain.txt"),
        ("filename=token.txt", "token.txt"),
        ("FileName=token.txt ; other=1", "token.txt"),
        ('filename="with  spaces; and=signs.txt"', "with  spaces; and=signs.txt"),
        ('filename="a \\"quote\\".txt"', 'a "quote".txt'),
        ('filename="%41+1.txt"', "%41+1.txt"),
        ('filename="na\u00efve \u20ac \U0001f600.txt"', "na\u00efve \u20ac \U0001f600.txt"),
        ("filename*=UTF-8''na%C3%AFve%20%E2%82%AC.txt", "na\u00efve \u20ac.txt"),
        ("filename*=utf-8'en'x.txt", "x.txt"),
        ("filename=\"plain.txt\"; filename*=UTF-8''other.txt", "plain.txt"),
        ("filename*=UTF-8''other.txt; filename=\"plain.txt\"", "plain.txt"),
        ("filename=\"plain.txt\"; filename*=UTF-8''..%2F..%2Fother.txt", "plain.txt"),
        ('filename="C:\\dir\\name.txt"', "name.txt"),
        ('filename="\\\\host\\share\\name.txt"', "name.txt"),
        ('filename="dir/name.txt"', "name.txt"),
        ('filename="../../name.txt"', "name.txt"),
        ('filename="..\\..\\name.txt"', "name.txt"),
        ('filename="/abs/name.txt"', "name.txt"),
        ("filename*=UTF-8''..%2F..%2Fname.txt", "name.txt"),
        ("filename*=UTF-8''%2Fabs%5Cname.txt", "name.txt"),
        ('filename=".hidden"', ".hidden"),
        ('filename="..."', "..."),
        ('filename="-rf"', "-rf"),
        ('filename="%s"' % ("x" * 255), "x" * 255),
        ('filename=""', None),
        ("filename=", None),
        ('filename="."', None),
        ('filename=".."', None),
        ('filename="dir/"', None),
        ('filename="dir/.."', None),
        ('filename="dir\\.."', None),
        ('filename="/"', None),
        ('filename="a\0b.txt"', None),
        ('filename="a.txt\0"', None),
        ("filename*=UTF-8''a%00b.txt", None),
        ("filename*=UTF-8''a%FFb.txt", None),
        ("filename*=UTF-8''..", None),
        ("filename*=UTF-8''a%0D%0Ab", None),
        ('filename="%s"' % ("x" * 256), None),
        ('filename="%s"' % ("x" * 300), None),
        ('filename="%s"' % ("\u20ac" * 100), None),
        (b'filename="latin-1 \xe9.txt"', None),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_file_is_stored_under_its_base_name(nosafe, names, name):
    names = names if isinstance(names, bytes) else names.encode()
    above = set(nosafe.directory.parent.iterdir())
    answer = send(nosafe, body_of(part(b"data", b'form-data; name="file"; ' + names)))
    assert stored(nosafe) == ({name: b"data"} if name else {})
    assert answer.status == (200 if name else 400), answer
    assert set(nosafe.directory.parent.iterdir()) == above and not os.path.exists("/abs")


def test_the_name_of_the_field_is_not_the_files(nosafe):
    disposition = 'form-data; name="; filename=wrong; x=\\"; filename=wrong"; filename="right"'
    assert send(nosafe, body_of(part(b"1", disposition))).status == 200
    assert stored(nosafe) == {"right": b"1"}


# Bad bodies


def test_a_body_cut_off_at_any_byte_stores_nothing(nosafe):
    body = body_of(named("first", b"1"), named("second", b"\r\n--bb"), preamble=b"p\r\n")
    head = "POST /send-file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += "Content-Type: %sb\r\nContent-Length: %d\r\n\r\n"
    for cut in range(len(body)):
        received = nosafe.raw((head % (KIND, len(body))).encode() + body[:cut], half_close=True)
        assert received == b"" or received.startswith(b"HTTP/1.1 400 "), (cut, received)
        if cut < len(body) - 2:  # the closing delimiter needs no line end
            received = nosafe.raw((head % (KIND, cut)).encode() + body[:cut])
            assert received.startswith(b"HTTP/1.1 400 "), (cut, received)
    assert stored(nosafe) == {}
    assert send(nosafe, body).status == 200 and len(stored(nosafe)) == 2


@pytest.mark.parametrize(
    "kind, body",
    [
        ("multipart/form-data", body_of(named("n", b"1"))),
        (KIND, body_of(named("n", b"1"))),
        (KIND + '""', body_of(named("n", b"1"), boundary=b"")),
        (KIND + "x" * 71, body_of(named("n", b"1"), boundary=b"x" * 71)),
        (KIND + "c", body_of(named("n", b"1"))),
        (KIND + "B", body_of(named("n", b"1"))),
        ("application/octet-stream", b"data"),
        ("application/x-www-form-urlencoded", b"document=data"),
        ("text/plain; boundary=b", body_of(named("n", b"1"))),
        (KIND + "b", b""),
        (KIND + "b", b"--b--\r\n"),
        (KIND + "b", body_of(part(b"1", "form-data; name=document"))),
        (KIND + "b", body_of(b"\r\nno head")),
        (KIND + "b", body_of(b"")),
        (KIND + "b", body_of(part(b"", head=b"X: " + b"x" * 8200 + b"\r\n"))),
        (KIND + "b", b"--b\r\n" + part(b"")[:-4] + b"x" * 100000 + b"\r\n--b--\r\n"),
        (KIND + "b", body_of(named("n", b"1"), part(b"", head=b"X: " + b"x" * 8200 + b"\r\n"))),
        (KIND + "b", body_of(named("n", b"1"), named("..", b"2"))),
        (KIND + "b", body_of(named("n", b"1" * 3000000), b"Content-Disposition: form-data; filename=a\0")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_malformed_upload_stores_nothing(nosafe, kind, body):
    answer = send(nosafe, body, kind)
    assert stored(nosafe) == {}
    assert answer.status == 400 and answer.body.count(b"\n") == 1, answer


def test_an_upload_needs_a_length(nosafe):
    head = "POST /send-file HTTP/1.1\r\nHost: localhost\r\nContent-Type: %sb\r\nConnection: close\r\n\r\n" % KIND
    assert nosafe.raw(head.encode() + body_of(named("n", b"1"))).startswith(b"HTTP/1.1 411 ")
    assert stored(nosafe) == {}


@pytest.mark.parametrize(
    "chunks", [b"5\r\n--b\r\n\r\nzz\r\n", b"%x\r\n", b"%x\r\n%s\r\n", b"%x\r\n%s\r\n0\r\n", b"%x\r\n%sxx"]
)
def test_broken_chunks_store_nothing(nosafe, chunks):
    body = body_of(named("n", b"1"))
    body = chunks % (len(body), body) if b"%s" in chunks else chunks % len(body) if b"%x" in chunks else chunks
    head = "POST /send-file HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    received = nosafe.raw((head + "Content-Type: %sb\r\n\r\n" % KIND).encode() + body, half_close=True)
    assert received == b"" or received.startswith(b"HTTP/1.1 400 ")
    assert stored(nosafe) == {}


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_goes_away_leaves_nothing(nosafe, reset):
    (nosafe.directory / "kept").write_text("before")
    body = body_of(named("kept", b"x" * 3000000), named("n", b"y" * 3000000))
    head = "POST /send-file HTTP/1.1\r\nHost: localhost\r\nContent-Type: %sb\r\nContent-Length: %d\r\n\r\n"
    with nosafe.connect() as sock:
        sock.sendall((head % (KIND, len(body))).encode() + body[:4000000])
        wait_for(lambda: len(list(nosafe.directory.iterdir())) > 1, 10, "a file on its way")
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: len(list(nosafe.directory.iterdir())) == 1, 10, "the temporary files to be removed")
    assert stored(nosafe) == {"kept": b"before"}


# What was there before


def test_a_broken_upload_leaves_what_was_there(nosafe):
    path = nosafe.directory / "kept"
    path.write_text("before")
    broken = body_of(named("kept", b"x" * 3000000))[:-6]
    before = path.stat()
    assert send(nosafe, broken).status == 400
    assert send(nosafe, body_of(named("kept", b"new"), named("..", b""))).status == 400
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert stored(nosafe) == {"kept": b"before"}


def test_a_file_is_overwritten_in_one_step(nosafe):
    path = nosafe.directory / "old"
    path.write_text("longer than the new one")
    with open(str(path)) as reader:
        assert send(nosafe, body_of(named("old", b"new"))).status == 200
        assert reader.read() == "longer than the new one"  # who has it open goes on reading the old one
    assert stored(nosafe) == {"old": b"new"}


def test_an_executable_stays_one_and_a_new_file_is_none(nosafe):
    mask = os.umask(0)
    os.umask(mask)
    path = nosafe.directory / "script"
    path.write_text("old")
    path.chmod(0o750)
    assert send(nosafe, body_of(named("script", b"new"), named("plain", b"1"))).status == 200
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert stat.S_IMODE((nosafe.directory / "plain").stat().st_mode) == 0o666 & ~mask
    stored(nosafe)


@pytest.mark.parametrize("where", ["outside", "nowhere", "link"])
def test_a_link_is_replaced_and_not_followed(nosafe, tmp_path, where):
    outside, path = tmp_path / "outside", nosafe.directory / "link"
    outside.write_text("untouched")
    path.symlink_to("link" if where == "link" else str(tmp_path / where))  # one that leads to itself, too
    assert send(nosafe, body_of(named("link", b"new"))).status == 200
    assert stat.S_IMODE(os.lstat(str(path)).st_mode) & 0o133 == 0, "the rights of a link, which are all"
    assert not path.is_symlink() and outside.read_text() == "untouched" and not (tmp_path / "nowhere").exists()
    assert stored(nosafe) == {"link": b"new"}


def test_another_name_of_the_same_file_keeps_the_old_one(nosafe, tmp_path):
    other = tmp_path / "other"
    other.write_text("old")
    os.link(str(other), str(nosafe.directory / "name"))
    assert send(nosafe, body_of(named("name", b"new"))).status == 200
    assert other.read_text() == "old" and stored(nosafe) == {"name": b"new"}


def test_a_pipe_in_the_way_is_replaced_and_never_opened(nosafe):
    os.mkfifo(str(nosafe.directory / "pipe"))
    assert send(nosafe, body_of(named("pipe", b"new"))).status == 200
    assert stored(nosafe) == {"pipe": b"new"}


@pytest.mark.parametrize("full", [False, True])
def test_a_directory_in_the_way_is_refused(nosafe, full):
    directory = nosafe.directory / "dir"
    directory.mkdir()
    if full:
        (directory / "inside").write_text("1")
    answer = send(nosafe, body_of(named("one", b"1"), named("dir", b"2")))
    left = sorted(path.name for path in nosafe.directory.iterdir())
    shutil.rmtree(str(directory))
    stored(nosafe)
    assert answer.status in (400, 403, 500) and answer.body.count(b"\n") == 1
    assert left == ["dir"]  # all or nothing holds for all files of an upload


def test_the_same_name_at_once_ends_in_one_whole_file(nosafe):
    bodies, statuses = [bytes([65 + number]) * 2000000 for number in range(8)], []

    def one(data):
        statuses.append(send(nosafe, body_of(named("same", data))).status)

    threads = [threading.Thread(target=one, args=(data,)) for data in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 200 in statuses and set(statuses) <= {200, 403}
    found = stored(nosafe)
    assert list(found) == ["same"] and found["same"] in bodies


# Disks that take nothing


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a mebibyte; skips where it can't be mounted."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        pytest.skip("mount is not permitted here: %s" % " ".join(done.stdout.decode().split()))
    yield directory
    subprocess.run(["umount", "-l", str(directory)])


@as_root
def test_a_full_disk_is_told_and_nothing_is_left(small_disk, start):
    daemon = start("noauth", "-nosafe", directory=small_disk)
    (small_disk / "kept").write_text("before")
    for body in (named("kept", b"x" * 3000000),), (named("one", b"1"), named("two", b"x" * 3000000)):
        answer = send(daemon, body_of(*body))
        assert answer.status == 507 and len(answer.body.split()) > 3
        assert [path.name for path in small_disk.iterdir()] == ["kept"]
    assert send(daemon, body_of(named("kept", b"x" * 100000))).status == 200
    assert stored(daemon) == {"kept": b"x" * 100000}


@as_root
def test_a_full_disk_does_not_stop_a_command(small_disk, start):
    """Its log is cut short, its answer says so, and the daemon goes on."""
    (small_disk / "work").mkdir()
    daemon = start("noauth", "-nosafe", directory=small_disk / "work")  # its temporary directory is on the disk, too
    answer = daemon.request("POST", "/execcmd?cmd=head+-c+3000000+/dev/zero;+exit+3")
    assert answer.status == 200 and b"[exit code 3; \xe2\x80\xa6 " in answer.body
    assert b"the whole output" not in answer.body
    assert daemon.request("POST", "/execcmd?cmd=echo+on").body == b"on\n"


def test_a_directory_that_may_not_be_written_is_told(request, tmp_path, start):
    if os.geteuid() == 0:  # whom no mode stops
        directory = request.getfixturevalue("small_disk")
        daemon = start("noauth", "-nosafe", directory=directory)
        subprocess.check_call(["mount", "-o", "remount,ro", str(directory)])
    else:
        directory = tmp_path / "work"
        daemon = start("noauth", "-nosafe", directory=directory)
        directory.chmod(0o555)
    answer = send(daemon, body_of(named("n", b"1")))
    assert answer.status in (403, 500) and answer.body.count(b"\n") == 1 and b"bug" not in answer.body
    assert list(directory.iterdir()) == []


# The parser alone, without a socket


def reader(blocks):
    """A readinto over some blocks of bytes: it hands out one at a time, or what fits of it."""
    blocks = [block for block in blocks if block]

    def readinto(view):
        if not blocks:
            return 0
        count = min(len(view), len(blocks[0]))
        view[:count] = blocks[0][:count]
        blocks[0] = blocks[0][count:]
        if not blocks[0]:
            del blocks[0]
        return count

    return readinto


def parts_in(blocks, kind=KIND + "b"):
    """[(name, file name, data)] that the parser finds."""
    found = []
    for event in mycodeinterpreter.multipart(kind, reader(blocks)):
        if isinstance(event, tuple):
            found.append(event + (bytearray(),))
        else:
            found[-1][2].extend(event)
    return [(field, name, bytes(data)) for field, name, data in found]


BODY = body_of(
    part(TRICKY),
    part(b"", "form-data; name=field"),
    named("\u20ac", b"\r\n"),
    preamble=b"--bb\r\n",
    epilogue=b"\r\n--b\r\n",
)
FOUND = [("document", "name", TRICKY), ("field", None, b""), ("file", "\u20ac", b"\r\n")]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 11, 64, 10000])
def test_the_parser_finds_the_same_whatever_it_is_handed_at_a_time(size):
    assert parts_in([BODY[at : at + size] for at in range(0, len(BODY), size)]) == FOUND


def test_the_parser_finds_the_same_at_every_split():
    for at in range(len(BODY)):
        assert parts_in([BODY[:at], BODY[at:]]) == FOUND, at


def test_the_parser_refuses_what_is_cut_off_at_any_byte():
    end = len(BODY) - len(b"\r\n--b\r\n")
    for cut in range(end):
        with pytest.raises(mycodeinterpreter.HTTPError) as caught:
            parts_in([BODY[:cut]])
        assert caught.value.status == 400
    assert parts_in([BODY[:end]]) == FOUND


def test_the_parser_reads_all_of_the_epilogue():
    """What it left would be taken for the next request."""
    blocks = [body_of(part(b"1")), b"x" * 10, b"--b\r\n" * 10]
    readinto = reader(blocks)
    list(mycodeinterpreter.multipart(KIND + "b", readinto))
    assert readinto(memoryview(bytearray(10))) == 0


@pytest.mark.parametrize("size", [(1 << 20) - 3, 1 << 20, (1 << 20) + 16384, (3 << 20) + 1])
def test_the_parser_is_right_beyond_its_buffer(size):
    data = (TRICKY * (size // len(TRICKY) + 1))[:size] + b"\r\n--"
    assert parts_in([body_of(part(data), named("n", b"1"))]) == [("document", "name", data), ("file", "n", b"1")]


quickly = hypothesis.settings(deadline=None, database=None, max_examples=150)
PIECES = [b"\r", b"\n", b"-", b"--", b"b", b"\r\n--b", b"\r\n--", b"\r\n\r\n", b"\0", b"\xff", b"Content-Disposition: "]
LETTERS = "aZ0 .-_;=,:/'\"%*+&<>\t\u00e9\u20ac\u6f22\U0001f600\u202e\u0301\x7f"


def is_free_of(boundary, data):
    """Whether data has no delimiter in it, nor makes one together with what surrounds it."""
    delimiter = re.compile(rb"\r\n--" + re.escape(boundary) + rb"(?:--|\r\n)")
    return all(
        delimiter.search(b"\r\n" + data + b"\r\n--" + boundary + end).start() == len(data) + 2
        for end in (b"--", b"\r\n")
    )


def text_of(letters, least):
    """A strategy; st.text would leave tables of Unicode on the disk."""
    return st.lists(st.sampled_from(letters), min_size=least, max_size=20).map("".join)


contents = st.one_of(st.binary(max_size=100), st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
contents = contents.filter(functools.partial(is_free_of, b"b"))
names_of_parts = st.one_of(st.none(), text_of(LETTERS, 1))


@quickly
@hypothesis.given(st.lists(st.tuples(names_of_parts, contents), min_size=1, max_size=4), st.data())
def test_any_names_and_data_come_out_as_they_went_in(files, data):
    parts, expected = [], []
    for name, content in files:
        disposition = 'form-data; name="x"'
        if name is not None:
            disposition += '; filename="%s"' % name.replace('"', '\\"')
        parts.append(part(content, disposition))
        expected.append(("x", name, content))
    body = body_of(*parts)
    cuts = [0] + sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8))) + [len(body)]
    assert parts_in([body[start:stop] for start, stop in zip(cuts, cuts[1:])]) == expected


@quickly
@hypothesis.given(
    st.lists(st.sampled_from(PIECES + [b"\r\n--b--", b"--b\r\n", b'name="x"; filename="y"']), max_size=30)
)
def test_no_body_makes_the_parser_fail_but_by_a_sentence(pieces):
    body = b"".join(pieces)
    for blocks in [body], [bytes([byte]) for byte in body]:
        try:
            parts_in(blocks)
        except mycodeinterpreter.HTTPError as error:
            assert error.status == 400 and error.message


@quickly
@hypothesis.given(text_of(LETTERS + "\\\0\r\n", 0), st.sampled_from(["", "..", ".", "x", "a" * 254]))
def test_no_name_leaves_the_directory(text, more):
    try:
        name = mycodeinterpreter.base_name(text + more)
    except mycodeinterpreter.HTTPError as error:
        assert error.status == 400
    else:
        assert name and name not in (".", "..") and not set(name) & set("/\\\0\r\n")
        assert (text + more).endswith(name) and len(name.encode()) <= 255


# A gibibyte


def holds(daemon, name, source):
    """Whether get-file sends what is in the source file; a mebibyte at a time."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
    connection.request("GET", "/get-file?filename=" + name)
    response = connection.getresponse()
    received, expected = bytearray(1 << 20), bytearray(1 << 20)
    with open(str(source), "rb") as file:
        while True:
            count = file.readinto(expected)
            view = memoryview(received)[:count]
            while len(view):
                got = response.readinto(view)
                if not got:
                    return False
                view = view[got:]
            if not count:
                break
            if received[:count] != expected[:count]:
                return False
    rest = response.read()
    connection.close()
    return response.status == 200 and rest == b""


@needs_curl
@needs_proc
def test_a_gibibyte_goes_there_and_back_in_flat_memory(start, tmp_path):
    if shutil.disk_usage(str(tmp_path)).free < 3 << 30:
        pytest.skip("needs 3 GiB of free disk space")
    source, size = tmp_path / "source", (1 << 30) + 12345
    daemon = start("noauth", "-nosafe")
    try:
        with open(str(source), "wb") as file:
            file.truncate(size)
            for at in range(0, size, 99999937):  # sparse, with data that looks like delimiters here and there
                file.seek(at)
                file.write(os.urandom(1000) + TRICKY * 100)
            size = max(size, file.tell())
        status, text = curl(daemon, "-F", "document=@%s;filename=big" % source)
        assert status == 200 and str(size) in text
        assert holds(daemon, "big", source)
        (daemon.directory / "big").unlink()
        (tmp_path / "head").write_bytes(b"--b\r\n" + named("big", b""))
        (tmp_path / "tail").write_bytes(b"\r\n--b--\r\n")
        pipe = 'cat head source tail | curl -sS -T - -X POST -H "Transfer-Encoding: chunked" -H "Content-Type: $1" "$2"'
        url = "http://127.0.0.1:%d/send-file" % daemon.port
        text = subprocess.check_output(["sh", "-c", pipe, "sh", KIND + "b", url], cwd=str(tmp_path))
        assert str(size).encode() in text
        assert holds(daemon, "big", source)
        with open("/proc/%d/status" % daemon.process.pid) as file:
            assert int(re.search(r"VmHWM:\s+(\d+) kB", file.read()).group(1)) < 40 * 1024
    finally:
        for path in source, daemon.directory / "big":
            if path.exists():
                path.unlink()


def test_each_file_of_an_upload_has_its_line_in_the_log(start):
    daemon = start("noauth", "-nosafe", "-log", "audit")
    assert send(daemon, body_of(named("one", b"1"), named("two", b"22"))).status == 200
    wait_for(lambda: (daemon.directory / "audit").read_bytes().count(b"\n") == 2, what="a line for each")
    entries = [json.loads(line) for line in (daemon.directory / "audit").read_text().splitlines()]
    assert [os.path.basename(entry["subject"]) for entry in entries] == ["one", "two"]
    assert entries[0]["facts"][0] == "a new file"
    daemon.stop()
    assert "actions run: 2, denied: 0" in daemon.errors() and "received 3 bytes" in daemon.errors()


def test_an_upload_does_not_get_the_rights_of_another_user(nosafe):
    path = nosafe.directory / "setuid"
    path.write_bytes(b"before")
    path.chmod(0o6755)
    assert send(nosafe, body_of(named("setuid", b"after"))).status == 200
    assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (0o755, b"after")
    path.unlink()


@pytest.mark.skipif(not os.path.exists("/proc/version"), reason="/proc is Linux's")
def test_a_file_that_does_not_tell_its_size_is_not_sent_as_an_empty_one(nosafe):
    answer = nosafe.request("GET", "/get-file?filename=/proc/version")
    assert answer.status == 400 and b"/proc/version" in answer.body and b"command" in answer.body
    (nosafe.directory / "empty").write_bytes(b"")
    assert fetch(nosafe, "empty") == b""
    (nosafe.directory / "empty").unlink()


@needs_curl
@pytest.mark.parametrize("name, kept", [("a b.txt", "a b.txt"), ('"%\\;.txt', "___;.txt"), ("\u00e4.txt", "_.txt")])
def test_curl_keeps_the_name_of_a_file_that_it_fetches(nosafe, tmp_path, name, kept):
    (nosafe.directory / name).write_bytes(b"x")
    url = "http://127.0.0.1:%d/get-file?filename=%s" % (nosafe.port, urllib.parse.quote(name))
    subprocess.run(["curl", "-sSOJ", url], cwd=str(tmp_path), check=True, timeout=30)
    assert os.listdir(str(tmp_path)) == [kept]
    (nosafe.directory / name).unlink()


@pytest.mark.parametrize("head, name", [
    (b'filename="a"; filename="b"', "a"),
    (b"filename*=UTF-8''a; filename*=UTF-8''b", "a"),
    (b"filename*=UTF-8''b; filename=\"a\"; FILENAME=b", "a"),
])  # fmt: skip
def test_of_two_names_of_a_kind_the_first_counts(head, name):
    head = b'Content-Disposition: form-data; name="n"; name="m"; ' + head
    assert mycodeinterpreter.part_names(head) == ("n", name)


def test_a_temporary_file_that_is_gone_does_not_keep_the_others(nosafe):
    part = b'--b\r\nContent-Disposition: form-data; name=a; filename=f%d\r\n\r\ndata\r\n'
    with nosafe.connect() as sock:
        sock.sendall(b"POST /send-file HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                     b"Content-Length: 9999\r\n\r\n" + part % 1)
        first = wait_for(lambda: list(nosafe.directory.glob(".*.part")), what="the first temporary file")
        sock.sendall(part % 2)
        wait_for(lambda: len(list(nosafe.directory.glob(".*.part"))) == 2, what="the second")
        first[0].unlink()
    wait_for(lambda: os.listdir(str(nosafe.directory)) == [], what="no temporary file")


def test_what_a_write_leaves_over_of_an_upload_is_written_too(tmp_path):
    class Narrow:
        """A file on a disk that takes three bytes at a time."""

        def __init__(self, file):
            self.file = file

        def write(self, view):
            return self.file.write(view[:3])

        def __getattr__(self, name):
            return getattr(self.file, name)

    upload = mycodeinterpreter.Upload(str(tmp_path), "f")
    upload.write(b"")
    upload._file = Narrow(upload._file)
    upload.write(memoryview(b"0123456789"))
    upload.commit()
    upload.discard()
    assert (tmp_path / "f").read_bytes() == b"0123456789" and upload.size == 10
