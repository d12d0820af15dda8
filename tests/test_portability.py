"""Elsewhere than on Linux: what is POSIX's or Linux's alone is taken away from the real program before it starts.

It tells that nothing is needed which is not there, and not that Windows or macOS do the rest as Linux does.
"""

import ast
import signal

import pytest
from conftest import PROGRAM

LACKS = """
import os
modules, names, name = %r
import base64, ctypes, hashlib, hmac, http.client, mimetypes, runpy, select, shlex, shutil, signal, socket
import socketserver, subprocess, sys, tempfile, types
for module in modules:
    sys.modules[module] = None
for path in names:
    owner, _, attribute = path.rpartition(".")
    if hasattr(sys.modules[owner], attribute):
        delattr(sys.modules[owner], attribute)
os.name = name
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
MACOS = ["os.pidfd_open", "select.POLLRDHUP", "select.epoll", "signal.pidfd_send_signal"]
WINDOWS = MACOS + """select.poll os.killpg os.getpgrp os.tcgetpgrp os.pread os.fchmod os.sendfile os.set_blocking
    os.setsid os.getuid os.geteuid os.O_NOFOLLOW os.O_NONBLOCK signal.SIGHUP signal.SIGKILL socket.SO_RCVTIMEO
    socket.SO_SNDTIMEO socket.MSG_DONTWAIT time.tzset""".split()


@pytest.fixture
def elsewhere(start, tmp_path):
    """A function that starts the program without some modules and names: elsewhere(system, *arguments, **options)."""

    def begin(system, *arguments, **options):
        lacking = (["fcntl", "termios"], WINDOWS, "nt") if system == "Windows" else ([], MACOS, "posix")
        wrapper = tmp_path / "wrapper.py"
        wrapper.write_text(LACKS % (lacking,))
        return start(str(PROGRAM), *arguments, program=wrapper, **options)

    return begin


@pytest.mark.parametrize("system", ["macOS", "Windows"])
def test_files_go_there_and_back(elsewhere, system):
    daemon = elsewhere(system, "noauth", "-nosafe")
    for content in (b"", b"small\0", bytes(range(256)) * 1000):
        body = b"--b\r\nContent-Disposition: form-data; name=file; filename=f\r\n\r\n" + content + b"\r\n--b--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        assert daemon.request("POST", "/send-file", body, kind).status == 200
        assert daemon.request("GET", "/get-file?filename=f").body == content
        if content:
            assert daemon.request("GET", "/get-file?filename=f", None, {"Range": "bytes=2-4"}).body == content[2:5]


@pytest.mark.parametrize("system", ["macOS", "Windows"])
def test_a_command_runs_or_is_refused_in_a_sentence(elsewhere, system):
    daemon = elsewhere(system, "noauth", "-nosafe", "-timeout", "1")
    answer = daemon.request("POST", "/execcmd?cmd=echo%20hello", b"")
    if system == "macOS":
        assert (answer.status, answer.body) == (200, b"hello\n")
        assert daemon.request("POST", "/execcmd?cmd=sleep%20987", b"").status == 408
    else:
        assert answer.status == 500 and answer.body.startswith(b"commands do not run on this system yet")


@pytest.mark.parametrize("system", ["macOS", "Windows"])
def test_the_operator_is_asked_and_ends_it(elsewhere, system):
    daemon = elsewhere(system, "noauth", tty=True)
    (daemon.directory / "f").write_text("content")
    for word, status in (("y\n", 200), ("n because\n", 403)):
        with daemon.connect() as sock:
            sock.sendall(b"GET /get-file?filename=f HTTP/1.1\r\nHost: localhost\r\n\r\n")
            daemon.expect("always this very action: ")
            daemon.type(word)
            answer = sock.recv(65536)
            assert answer.startswith(b"HTTP/1.1 %d " % status) and (b"because" in answer) == (status == 403)
    daemon.type("\x03")
    assert daemon.stop(signal.SIGINT) == 0


def test_slow_requests_are_dropped_without_the_kernels_timeouts(elsewhere):
    daemon = elsewhere("Windows", "noauth", "-nosafe")
    with daemon.connect() as sock:
        sock.sendall(b"GET /get-file")
        assert sock.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_no_module_that_is_not_everywhere_is_imported_unguarded():
    lacking = {"fcntl", "termios", "tty", "pty", "pwd", "grp", "resource", "syslog", "readline", "posix", "msvcrt"}
    tree = ast.parse(PROGRAM.read_text(encoding="utf-8"))
    unguarded = {name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names}
    assert len(unguarded) > 10 and not unguarded & lacking
