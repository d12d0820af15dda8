"""What goes wrong around the daemon: it answers clearly, keeps nothing half-done, lives on, and ends when told to.

Elsewhere: a full disk, a directory in the way, a client gone in an upload (test_files.py), a client gone in a download
(test_http.py), a missing shell (test_commands.py), closed standard streams (test_lifecycle.py).
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

import pytest
from conftest import ROOT, wait_for
from test_lifecycle import ASKED, command_running, ends_well, post, question_open, request_half_way, send_signal
from test_lifecycle import lives as is_alive

import mycodeinterpreter

resource = pytest.importorskip("resource")
needs_prlimit = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process: Linux only")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, which root may")
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}
UPLOAD = b'--b\r\nContent-Disposition: form-data; name="f"; filename="stored"\r\n\r\ndata\r\n--b--\r\n'
BEGUN = UPLOAD[: UPLOAD.rindex(b"data")]
STRANGER = 54321  # a user who has no processes


def wrapped(directory, code):
    """A program that does something first and then is the real one."""
    path = directory / "wrapped.py"
    lines = ["import os, sys", "sys.path.insert(0, %r)" % str(ROOT), "import mycodeinterpreter as program", code]
    path.write_text("\n".join(lines + ["program.main()", ""]))
    return path


def descriptors(daemon):
    return len(os.listdir("/proc/%d/fd" % daemon.process.pid))


def tasks(daemon):
    return len(os.listdir("/proc/%d/task" % daemon.process.pid))


def limit(daemon, which, soft):
    """Sets a limit of the running daemon and returns the one before."""
    return resource.prlimit(daemon.process.pid, which, (soft, resource.prlimit(daemon.process.pid, which)[1]))[0]


class Client:
    """One connection that is kept alive, so that a request needs neither a descriptor nor a thread."""

    def __init__(self, daemon):
        self.connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
        assert self.request("GET", "/openapi.json")[0] == 200

    def request(self, method, target, body=None, headers=None):
        self.connection.request(method, target, body, headers or {})
        response = self.connection.getresponse()
        return response.status, response.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()


def lives(daemon):
    """Asserts that the daemon does its work."""
    assert daemon.process.poll() is None
    answer = daemon.request("POST", "/execcmd?cmd=echo%20on", b"")
    assert (answer.status, answer.body) == (200, b"on\n")
    assert "Traceback" not in daemon.errors()


def is_clear(body):
    """Whether an error's body is one sentence that says what is the matter, and no bug's."""
    return body.count(b"\n") == 1 and len(body.split()) > 3 and b"bug" not in body


# Files that shrink while they are served


@contextlib.contextmanager
def slow_download(daemon, name="large", size=1 << 26):
    """The beginning of a large file is read; (socket, path, what was read)."""
    path = daemon.directory / name
    with open(str(path), "wb") as file:
        file.truncate(size)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.settimeout(30)
        sock.connect(("127.0.0.1", daemon.port))
        sock.sendall(b"GET /get-file?filename=%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % name.encode())
        data = sock.recv(1000)
        assert data.startswith(b"HTTP/1.1 200 ") and b"Content-Length: %d\r\n" % size in data
        yield sock, path, data


def rest_of(sock, data=b""):
    """All that comes until the daemon closes; fails where it does not."""
    with contextlib.suppress(ConnectionResetError):
        while True:
            block = sock.recv(1 << 20)
            if not block:
                break
            data += block
    return data


def test_a_file_that_shrinks_while_it_is_served_cuts_the_connection(nosafe):
    with slow_download(nosafe) as (sock, path, data):
        os.truncate(str(path), 1000)
        received = rest_of(sock, data)
    assert 1000 < len(received) < 1 << 26
    assert b"HTTP/1.1 " not in received[8:], "an answer in the middle of another"
    lives(nosafe)


def test_of_a_download_that_is_given_up_the_log_counts_what_was_sent(start):
    daemon = start("noauth", "-nosafe")
    with slow_download(daemon):
        pass
    line = wait_for(lambda: re.search(r" get-file .* 200 ([0-9]+)B ", daemon.errors()), what="the log's line")
    assert 0 < int(line.group(1)) < 1 << 26


@pytest.mark.parametrize("size", [1000, 200000], ids=["small", "large"])
def test_a_file_that_shrinks_before_the_yes_is_not_sent_short(start, size):
    """An answer shorter than its Content-Length on a connection that stays open: the next one would be taken for it."""
    daemon = start("noauth", tty=True)
    path = daemon.directory / "f"
    path.write_bytes(b"x" * size)
    with daemon.connect() as sock:
        sock.settimeout(10)
        sock.sendall(b"GET /get-file?filename=f HTTP/1.1\r\nHost: localhost\r\n\r\n")
        daemon.expect("y = yes")
        os.truncate(str(path), 100)
        daemon.type("y\n")
        received = b""
        try:
            received = rest_of(sock)  # cut
        except socket.timeout:
            pytest.fail("the daemon neither completes its answer nor cuts the connection")
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: ([0-9]+)", head)
    assert not length or int(length.group(1)) > len(body) or not head.startswith(b"HTTP/1.1 200 ")
    assert daemon.request("GET", "/openapi.json").status == 200


# Clients that are gone


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_gone_in_the_middle_of_a_chunked_upload_leaves_nothing(nosafe, reset):
    before = set(os.listdir(str(nosafe.directory)))
    head = b"POST /send-file HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Type: %s\r\n\r\n"
    with nosafe.connect() as sock:
        sock.sendall(head % MULTIPART["Content-Type"].encode() + b"%x\r\n" % (1 << 24) + BEGUN + b"x" * 3000000)
        wait_for(lambda: set(os.listdir(str(nosafe.directory))) > before, what="the file on its way")
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: set(os.listdir(str(nosafe.directory))) == before, what="its removal")
    lives(nosafe)


# Too many open files


@needs_prlimit
def test_without_descriptors_every_answer_is_clear_and_it_recovers(start):
    """The limit is let down to each number of free descriptors, so that each step that needs one fails once."""
    daemon = start("noauth", "-nosafe")
    (daemon.directory / "f").write_text("content")
    with Client(daemon) as client:
        before = descriptors(daemon)
        for name, target, body, headers in (
            ("POST", "/execcmd?cmd=echo%20on", b"", {}),
            ("POST", "/execcmd?cmd=cat", b"on\n", {"Content-Type": "text/plain"}),
            ("POST", "/execcmd?cmd=head%20-c%20200000%20/dev/zero", b"", {}),
            ("GET", "/get-file?filename=f", None, {}),
            ("POST", "/send-file", UPLOAD, MULTIPART),
        ):
            status, good = client.request(name, target, body, headers)  # what is imported late, is now
            assert status == 200
            seen = []
            for free in range(9):
                wait_for(lambda: descriptors(daemon) == before, what="the descriptors of %s" % target)
                usual = limit(daemon, resource.RLIMIT_NOFILE, before + free)
                try:
                    status, answer = client.request(name, target, body, headers)
                finally:
                    limit(daemon, resource.RLIMIT_NOFILE, usual)
                assert status == 200 or status in (500, 503) and is_clear(answer), (target, free, status, answer)
                seen.append(status)
            assert seen[0] != 200 and seen[-1] == 200, (target, seen)
            assert client.request(name, target, body, headers)[1].partition(b"[")[0] == good.partition(b"[")[0]
        assert sorted(os.listdir(str(daemon.directory))) == ["f", "stored"]
    lives(daemon)


@needs_prlimit
def test_a_daemon_without_descriptors_from_the_start_answers_clearly(start):
    """What is imported when it is first needed needs descriptors, too."""
    daemon = start("noauth", "-nosafe")
    (daemon.directory / "\u00fc").write_text("content")
    with Client(daemon) as client:
        usual = limit(daemon, resource.RLIMIT_NOFILE, descriptors(daemon))
        for name, target, body, headers in (
            ("GET", "/get-file?filename=%C3%BC", None, {}),
            ("POST", "/execcmd?cmd=echo%20%C3%BC", b"", {}),
            ("POST", "/send-file", UPLOAD, MULTIPART),
        ):
            status, answer = client.request(name, target, body, headers)
            assert status in (500, 503) and is_clear(answer), (target, status, answer)
        limit(daemon, resource.RLIMIT_NOFILE, usual)
        assert client.request("GET", "/get-file?filename=%C3%BC") == (200, b"content")
        assert client.request("POST", "/execcmd?cmd=echo%20%C3%BC", b"")[1] == "\u00fc\n".encode()
        assert client.request("POST", "/send-file", UPLOAD, MULTIPART)[0] == 200
    lives(daemon)


def seconds_of(daemon):
    """The processor's time that it has used."""
    with open("/proc/%d/stat" % daemon.process.pid) as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")


@needs_prlimit
def test_connections_that_find_no_descriptor_wait_and_are_served_later(start):
    daemon = start("noauth", "-nosafe")
    usual = limit(daemon, resource.RLIMIT_NOFILE, descriptors(daemon))
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(daemon.connect()) for _ in range(20)]
        for sock in socks:
            sock.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        before = seconds_of(daemon)
        time.sleep(1)  # in which it must not spin
        spent = seconds_of(daemon) - before
        limit(daemon, resource.RLIMIT_NOFILE, usual)
        assert all(rest_of(sock).startswith(b"HTTP/1.1 200 ") for sock in socks)
        assert spent < 0.4
    lives(daemon)


# Fork that fails


def limit_processes(daemon, number):
    """Sets how many processes and threads a daemon of `forkless` may have; returns how many it had been allowed."""
    with open("/proc/%d/limits" % daemon.process.pid) as file:
        before = re.search(r"Max processes +([0-9]+)", file.read()).group(1)
    (daemon.temporary / "limit").write_text(str(number))
    daemon.process.send_signal(signal.SIGUSR1)

    def is_set():
        with open("/proc/%d/limits" % daemon.process.pid) as file:
            return re.search(r"Max processes +%d " % number, file.read())

    wait_for(is_set, what="the limit")
    return int(before)


@pytest.fixture
def open_directory():
    """A directory that every user may enter, as those of pytest are not; it outlives the daemon in it."""
    base = tempfile.mkdtemp()
    os.chmod(base, 0o755)
    yield base
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def forkless(open_directory, start, tmp_path):
    """A daemon whose user has no other processes, so that RLIMIT_NPROC, which does not bind root, fails its fork.

    It sets the limit itself, on SIGUSR1: to do that for another user's process root needs CAP_SYS_RESOURCE.
    """
    if not os.path.exists("/proc/self/limits"):
        pytest.skip("looks into /proc, which Linux has")
    if os.geteuid():
        pytest.skip("another user's daemon can be started by root only")
    code = "import argparse, gettext, locale, mimetypes, resource, signal, tempfile, threading, unicodedata\n"
    code += "for path in os.getcwd(), os.environ['TMPDIR']: os.chown(path, %d, -1)\n" % STRANGER
    code += "os.setgid(%d); os.setuid(%d)\n" % (STRANGER, STRANGER)
    code += "most = resource.getrlimit(resource.RLIMIT_NPROC)[1]\n"
    code += "path = os.environ['TMPDIR'] + '/limit'\n"
    code += "set_limit = lambda *_: resource.setrlimit(resource.RLIMIT_NPROC, (int(open(path).read()), most))\n"
    code += "signal.signal(signal.SIGUSR1, set_limit)"
    tmp_path.joinpath("program").mkdir()

    def start_one(*options, **more):
        directory = os.path.join(open_directory, "work")
        return start("noauth", *options, directory=directory, program=wrapped(tmp_path / "program", code), **more)

    return start_one


def test_without_processes_a_command_is_a_clear_500_and_the_daemon_recovers(forkless):
    daemon = forkless("-nosafe")
    with Client(daemon) as client:
        assert client.request("POST", "/execcmd?cmd=echo%20on", b"") == (200, b"on\n")
        before = descriptors(daemon)
        usual = limit_processes(daemon, 1)
        status, answer = client.request("POST", "/execcmd?cmd=echo%20on", b"")
        assert status in (500, 503) and is_clear(answer), answer
        assert client.request("POST", "/send-file", UPLOAD, MULTIPART)[0] == 200
        assert client.request("GET", "/get-file?filename=stored") == (200, b"data")
        with daemon.connect() as sock:  # no thread for it
            sock.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert rest_of(sock) == b"" or tasks(daemon)
        limit_processes(daemon, usual)
        assert client.request("POST", "/execcmd?cmd=echo%20on", b"") == (200, b"on\n")
        wait_for(lambda: descriptors(daemon) == before, what="the descriptors")
    lives(daemon)


@pytest.mark.parametrize("free", [1, 2])
def test_without_a_thread_to_tend_it_a_command_is_not_lost_sight_of(forkless, free):
    """The shell starts, but what shall look after it beyond the answer does not."""
    daemon = forkless("-nosafe")
    pid_path = daemon.directory / "pid"
    with Client(daemon) as client:
        assert client.request("POST", "/execcmd?cmd=true", b"")[0] == 200
        before = descriptors(daemon)
        wait_for(lambda: tasks(daemon) <= 4, what="the threads' end")
        usual = limit_processes(daemon, tasks(daemon) + free)
        status, answer = client.request("POST", "/execcmd?cmd=echo%20$$%3Epid;exec%20sleep%20987&wait=0.3", b"")
        limit_processes(daemon, usual)
        assert status == 202 or status in (500, 503) and is_clear(answer), answer
        if status == 202 or pid_path.exists():
            pid = int(pid_path.read_text())
            running = os.path.exists("/proc/%d/fd" % pid)
            assert running == (status == 202), "answered as failed, but it runs"
        if status != 202:
            wait_for(lambda: descriptors(daemon) == before, what="the descriptors")
    lives(daemon)
    assert daemon.stop() == 0
    if pid_path.exists():
        wait_for(lambda: not os.path.exists("/proc/%s" % pid_path.read_text().strip()), what="the command's end")


# Logs that can't be written


@needs_full
def test_an_audit_trail_that_can_not_be_written_is_said_and_stops_nothing(start):
    daemon = start("noauth", "-nosafe", "-log", "/dev/full")
    for _ in range(3):
        lives(daemon)
    wait_for(lambda: "audit trail can't be written: No space left" in daemon.errors(), what="the complaint")
    assert daemon.stop() == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB; skips where it can't be mounted."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        pytest.skip("mount is not permitted here: " + " ".join(done.stdout.decode().split()))
    yield directory
    subprocess.run(["umount", "-l", str(directory)])


@as_root
def test_after_a_full_disk_the_audit_trail_goes_on_with_whole_lines(small_disk, start):
    daemon = start("noauth", "-nosafe", "-log", small_disk / "log")
    (small_disk / "ballast").write_bytes(b"x" * 50000)
    for _ in range(10):
        assert daemon.request("POST", "/execcmd?cmd=echo%20" + "x" * 3000, b"").status == 200
    wait_for(lambda: "audit trail can't be written" in daemon.errors(), what="the complaint")
    (small_disk / "ballast").unlink()
    for _ in range(2):
        lives(daemon)
    wait_for(lambda: (small_disk / "log").read_text().count("echo on") >= 2, what="the last lines")
    for line in (small_disk / "log").read_text().splitlines():
        assert json.loads(line)["status"] == 200
    assert daemon.stop() == 0


@needs_full
@pytest.mark.parametrize("descriptor", [1, 2], ids=["stdout", "stderr"])
def test_standard_streams_that_take_nothing_stop_nothing(start, tmp_path, descriptor):
    program = wrapped(tmp_path, "os.dup2(os.open('/dev/full', os.O_WRONLY), %d)" % descriptor)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    daemon = start("noauth", "-nosafe", "-port", str(port), program=program, ready=False)
    daemon.port = port

    def serves():
        assert daemon.process.poll() is None, "it ended: " + daemon.errors()
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    wait_for(serves, what="a daemon that serves")
    for _ in range(3):
        lives(daemon)
    assert daemon.stop() == 0


# The end, in each of these. Each starts a daemon, with what `fixture` finds by name, and yields it in the fault.


@contextlib.contextmanager
def begun_upload(daemon):
    """The client has sent the beginning of a file, and the daemon has made the temporary one."""
    head = b"POST /send-file HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\nContent-Type: %s\r\n\r\n"
    with daemon.connect() as sock:
        sock.sendall(head % MULTIPART["Content-Type"].encode() + BEGUN + b"x")
        wait_for(lambda: list(daemon.directory.glob(".*")), what="the temporary file")
        yield


def children(daemon):
    """The process ids of its children."""
    found = []
    for task in os.listdir("/proc/%d/task" % daemon.process.pid):
        with contextlib.suppress(OSError), open("/proc/%d/task/%s/children" % (daemon.process.pid, task)) as file:
            found += map(int, file.read().split())
    return found


@contextlib.contextmanager
def its_command(daemon, command):
    """The command runs, and ends with the daemon."""
    with daemon.connect() as sock:
        sock.sendall(post("exec " + command))
        pids = wait_for(lambda: children(daemon), what="the command")
        yield
        wait_for(lambda: not any(map(is_alive, pids)), what="the command's end")


@contextlib.contextmanager
def full_disk(fixture):
    """An upload is half way, and a command that writes on, when the disk fills up; its logs are on it, too."""
    disk = fixture("small_disk")
    (disk / "work").mkdir()
    daemon = fixture("start")("noauth", "-nosafe", directory=disk / "work", tty=True)
    lives(daemon)
    with begun_upload(daemon):
        assert daemon.run_directories()
        with contextlib.suppress(OSError), open(str(disk / "ballast"), "wb", 0) as file:
            while file.write(b"x" * 4096):
                pass
        answer = daemon.request("POST", "/execcmd?cmd=head%20-c%20200000%20/dev/zero", b"")
        assert answer.status == 200 and b"bytes left out" in answer.body
        with its_command(daemon, "yes"):
            yield daemon


@contextlib.contextmanager
def no_permission(fixture):
    daemon = fixture("forkless")("-nosafe", tty=True)
    with command_running(daemon):
        (daemon.directory / "secret").touch(0)
        daemon.directory.chmod(0o555)
        assert daemon.request("GET", "/get-file?filename=secret").status == 403
        assert daemon.request("POST", "/send-file", UPLOAD, MULTIPART).status == 500
        yield daemon


@contextlib.contextmanager
def directory_in_the_way(fixture):
    """It comes when an upload is half way, so that the next is refused and this one will be."""
    daemon = fixture("start")("noauth", "-nosafe", tty=True)
    with begun_upload(daemon):
        (daemon.directory / "stored").mkdir()
        assert daemon.request("POST", "/send-file", UPLOAD, MULTIPART).status == 400
        yield daemon


@contextlib.contextmanager
def shrunk_file(fixture):
    daemon = fixture("start")("noauth", "-nosafe", tty=True)
    with slow_download(daemon) as (_, path, _):
        os.truncate(str(path), 0)
        yield daemon


@contextlib.contextmanager
def gone_clients(fixture):
    daemon = fixture("start")("noauth", "-nosafe", tty=True)
    with slow_download(daemon):
        pass
    with begun_upload(daemon):
        pass
    yield daemon


@contextlib.contextmanager
def gone_asker(fixture):
    """The question is about to be withdrawn."""
    daemon = fixture("start")("noauth", tty=True)
    with daemon.connect() as sock:
        sock.sendall(post("true"))
        daemon.expect(ASKED)
    yield daemon


@contextlib.contextmanager
def missing_shell(fixture):
    """One command was approved in vain, and the next one is asked for."""
    daemon = fixture("start")("noauth", "-shell", "/no/such/shell", tty=True)
    with daemon.connect() as sock:
        sock.sendall(post("true"))
        daemon.expect(ASKED)
        daemon.type("y\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 500 ")
    with question_open(daemon):
        yield daemon


@contextlib.contextmanager
def no_descriptors(fixture):
    """One connection waits for a descriptor, one is served, an upload is half way, a command runs."""
    daemon = fixture("start")("noauth", "-nosafe", tty=True)
    with Client(daemon) as client, begun_upload(daemon), its_command(daemon, "sleep 987"):
        taken = set(map(int, os.listdir("/proc/%d/fd" % daemon.process.pid)))
        limit(daemon, resource.RLIMIT_NOFILE, min(set(range(len(taken) + 1)) - taken))  # the next one to be given
        with daemon.connect():
            assert client.request("POST", "/execcmd?cmd=true", b"")[0] == 500  # meanwhile accept has failed
            yield daemon


@contextlib.contextmanager
def no_processes(fixture):
    """Neither a process nor a thread can be started, which the end itself may want."""
    daemon = fixture("forkless")("-nosafe", tty=True)
    with Client(daemon) as client, begun_upload(daemon), its_command(daemon, "sleep 987"):
        limit_processes(daemon, 1)
        assert client.request("POST", "/execcmd?cmd=true", b"")[0] == 500
        yield daemon


@contextlib.contextmanager
def unwritten_trail(fixture):
    daemon = fixture("start")("noauth", "-log", "/dev/full", tty=True)
    assert daemon.request("GET", "/openapi.json").status == 200
    daemon.expect("audit trail can't be written: No space left")
    with question_open(daemon):
        yield daemon


@contextlib.contextmanager
def stuck_trail(fixture):
    """It is a pipe, full, and nobody reads."""
    path = fixture("tmp_path") / "pipe"
    os.mkfifo(str(path))
    reader = os.open(str(path), os.O_RDONLY | os.O_NONBLOCK)
    daemon = fixture("start")("noauth", "-nosafe", "-log", path, tty=True)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, reader)
        writer = os.open(str(path), os.O_WRONLY | os.O_NONBLOCK)
        stack.callback(os.close, writer)
        with contextlib.suppress(BlockingIOError):
            while os.write(writer, b"x" * 4096):
                pass
        for _ in range(2):
            assert daemon.request("GET", "/openapi.json", timeout=10).status == 200
        yield daemon


@contextlib.contextmanager
def unwritten_log(fixture):
    code = "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)"
    daemon = fixture("start")("noauth", "-nosafe", tty=True, program=wrapped(fixture("tmp_path"), code))
    with command_running(daemon):
        lives(daemon)
        yield daemon


@contextlib.contextmanager
def closed_stdin(fixture):
    program = wrapped(fixture("tmp_path"), "os.close(0); sys.stdin = None")
    daemon = fixture("start")("noauth", tty=True, program=program)
    assert daemon.request("POST", "/execcmd?cmd=true", b"").status == 403
    with request_half_way(daemon):
        yield daemon


FAULTS = [
    pytest.param(full_disk, marks=as_root),
    no_permission,
    directory_in_the_way,
    shrunk_file,
    gone_clients,
    gone_asker,
    missing_shell,
    pytest.param(no_descriptors, marks=needs_prlimit),
    no_processes,
    pytest.param(unwritten_trail, marks=needs_full),
    stuck_trail,
    pytest.param(unwritten_log, marks=needs_full),
    closed_stdin,
]


@pytest.mark.parametrize("how", ["typed", "SIGTERM"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_signal_in_a_fault_ends_it_soon_and_it_leaves_nothing(request, fault, how):
    with fault(request.getfixturevalue) as daemon:
        began = time.monotonic()
        send_signal(daemon, how)
        ends_well(daemon, began)


def test_a_disk_that_fails_in_the_middle_of_a_file_cuts_the_connection(start, tmp_path):
    code = """
send, calls = os.sendfile, []
def failing(*arguments):
    calls.append(1)
    if len(calls) > 1:
        raise OSError(5, "Input/output error")
    return send(*arguments)
os.sendfile = failing
"""
    daemon = start("noauth", "-nosafe", program=wrapped(tmp_path, code))
    (daemon.directory / "large").write_bytes(bytes(10 << 20))
    received = daemon.raw(b"GET /get-file?filename=large HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert len(received) > 1000 and b"HTTP/1.1 " not in received[8:], "an answer in the middle of another"


BEGUN = (
    b"POST /send-file HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: 9999\r\n\r\n--b\r\nContent-Disposition: form-data; name=a; filename=f\r\n\r\ndata"
)


@pytest.mark.parametrize("how", ["closed", "reset", "ended"])
def test_an_upload_that_is_cut_off_is_logged(start, how):
    daemon = start("noauth", "-nosafe", "-log", "../audit")
    with daemon.connect() as sock:
        sock.sendall(BEGUN)
        wait_for(lambda: os.listdir(str(daemon.directory)), what="the temporary file")
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "ended":
            assert daemon.stop() == 0
    wait_for(lambda: " send-file " in daemon.errors(), what="the line of the log")
    entry = json.loads((daemon.directory.parent / "audit").read_text())
    assert entry["operation"] == "send-file" and entry["decision"] == "nosafe"


def test_a_question_whose_client_resets_is_logged(start):
    daemon = start("noauth", "-log", "../audit", tty=True)
    with daemon.connect() as sock:
        sock.sendall(b"POST /execcmd?cmd=id HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        daemon.expect("y = yes")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    daemon.expect("withdrawn")
    entry = json.loads(wait_for((daemon.directory.parent / "audit").read_text, what="the audit trail"))
    assert (entry["subject"], entry["decision"]) == ("id", "refused")


@pytest.mark.parametrize("headers", [
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Basic bWU6d3Jvbmc="},
    {},
], ids=ascii)
def test_secrets_are_compared_in_constant_time(start, tmp_path, headers):
    code = """
import hmac
compare = hmac.compare_digest
def telling(one, other):
    open("compared", "ab").write(other + b"\\n")
    return compare(one, other)
hmac.compare_digest = telling
"""
    daemon = start("me:right-key", "-nosafe", program=wrapped(tmp_path, code))
    token = re.search(r"secret URL: \S+/(\S+)", daemon.output()).group(1)
    assert daemon.request("GET", "/wrong/", headers=headers).status == 401
    compared = (daemon.directory / "compared").read_text().split()
    assert token in compared and (not headers or "right-key" in compared)
    assert "Basic" not in str(headers) or "me" in compared


@pytest.mark.parametrize("byte", [b"a", b""], ids=["dripping", "silent"])
def test_who_does_not_end_behind_an_early_answer_is_hung_up_on(start, byte):
    """Its answer is given LINGER seconds to arrive, and no more, whatever it sends on."""
    daemon = start("noauth", "-nosafe")
    before = descriptors(daemon)
    with daemon.connect() as sock:
        sock.sendall(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 404 ")

        def hung_up():
            time.sleep(0.1)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(byte)
            return descriptors(daemon) == before

        wait_for(hung_up, 2 * mycodeinterpreter.LINGER + 2, "the connection to be closed")
