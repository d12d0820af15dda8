"""What the tests share: the real program in its own process, a real pseudo-terminal for it, and HTTP by hand."""

import codecs
import collections
import fcntl
import http.client
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "mycodeinterpreter.py"
sys.path.insert(0, str(ROOT))  # for the tests of pure functions: import mycodeinterpreter

Answer = collections.namedtuple("Answer", "status headers body")


def wait_for(condition, seconds=10.0, what="a condition"):
    """Waits until condition() is true and returns its value."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, "waited %g s in vain for %s" % (seconds, what)
        time.sleep(0.01)


class Daemon:
    """The program, started in a directory of its own on a free port; `tty` gives it a pseudo-terminal to ask at."""

    def __init__(
        self, arguments, directory, env=None, tty=False, program=PROGRAM, python=sys.executable, columns=0
    ):
        self.arguments, self.directory, self.tty = list(arguments), pathlib.Path(directory), tty
        self.temporary = self.directory.parent / (self.directory.name + "-tmp")  # its TMPDIR
        self.temporary.mkdir(exist_ok=True)
        self.out_path, self.err_path = self.temporary / "stdout", self.temporary / "stderr"
        self.screen = ""  # what the pseudo-terminal has shown and was not consumed yet
        self.history = ""  # all that it has shown
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        environment = {k: v for k, v in os.environ.items() if k not in ("NGROK_AUTHTOKEN", "AUTH_KEY")}
        plain = {"TMPDIR": str(self.temporary), "PYTHONDONTWRITEBYTECODE": "1", "TERM": "xterm", "NO_COLOR": "1"}
        environment.update(plain, **(env or {}))
        command = [python, str(program)] + [str(a) for a in arguments]
        self.master = None
        options = dict(cwd=str(self.directory), env=environment, stdin=subprocess.DEVNULL)
        with open(str(self.out_path), "wb") as out, open(str(self.err_path), "wb") as err:
            if tty:
                self.master, slave = pty.openpty()
                fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
                # setsid and TIOCSCTTY by way of a shell-less helper: the pseudo-terminal becomes the controlling one,
                # so Ctrl+C typed into it is a real SIGINT from the terminal.
                helper = (
                    "import fcntl,os,signal,sys,termios;os.setsid();fcntl.ioctl(0,termios.TIOCSCTTY,0);"
                    "[signal.signal(n,signal.SIG_DFL) for n in (signal.SIGINT,signal.SIGHUP)];"  # as after &, nohup
                    "os.execv(sys.argv[1],sys.argv[1:])"
                )
                options["stdin"] = slave
                command = [python, "-c", helper] + command
                self.process = subprocess.Popen(command, stdout=out, stderr=slave, **options)
                os.close(slave)
            else:
                self.process = subprocess.Popen(command, stdout=out, stderr=err, **options)
        self.port = None

    def ready(self, seconds=15.0):
        """Waits until it serves; sets port."""
        def started():
            assert self.process.poll() is None, "the daemon ended: " + self.output() + self.errors()
            output = self.output()  # read once, lest the line come between two looks
            line = re.search(r"Starting server at \S+\n", output)  # whole: it may come in two pieces
            return line and (re.search(r":(\d+)\n", line.group()) or True)

        match = wait_for(started, seconds, "the daemon's start")
        self.port = int(match.group(1)) if match is not True else int(self.arguments[self.arguments.index("-port") + 1])
        return self

    def output(self):
        """What it has printed on stdout."""
        return self.out_path.read_text(encoding="utf-8", errors="replace")

    def errors(self):
        """What it has printed on stderr: its log, and at a pseudo-terminal its questions."""
        if self.tty:
            self.read_screen(0)
            return self.screen
        return self.err_path.read_text(encoding="utf-8", errors="replace")

    def read_screen(self, seconds):
        """Reads what the pseudo-terminal shows, waiting some seconds for it at most; whether there was anything."""
        if self.master is None or not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the other end is closed
            return False
        text = self._decode(data)
        self.screen, self.history = (self.screen + text).replace("\r\n", "\n"), self.history + text
        return bool(data)

    def expect(self, text, seconds=10.0):
        """Reads the screen until text appears that was not consumed yet; returns what was shown up to its end."""
        until = time.monotonic() + seconds
        while text not in self.screen:
            left = until - time.monotonic()
            assert left > 0, "%r did not appear on the screen:\n%s" % (text, self.screen)
            self.read_screen(min(left, 0.2))
        at = self.screen.index(text) + len(text)
        shown, self.screen = self.screen[:at], self.screen[at:]
        return shown

    def type(self, text):
        """Types at the pseudo-terminal."""
        os.write(self.master, text.encode("utf-8", "surrogateescape"))

    def connect(self):
        """A new socket to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def request(self, method, target, body=None, headers=None, timeout=60):
        """One request on a connection of its own, by http.client; the Answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, target, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def raw(self, data, timeout=15, half_close=False):
        """Sends bytes as they are and returns all that comes back until the daemon closes or rests for a second."""
        with self.connect() as sock:
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            received, until = b"", time.monotonic() + timeout
            while time.monotonic() < until:
                sock.settimeout(1.0 if received else timeout)
                try:
                    block = sock.recv(65536)
                except (socket.timeout, ConnectionResetError):
                    break
                if not block:
                    break
                received += block
            return received

    def run_directories(self):
        """The directories that the daemon has made for its logs."""
        return sorted(self.temporary.glob("mycodeinterpreter-*"))

    def stop(self, number=signal.SIGTERM, seconds=5.0):
        """Ends it by a signal and returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        until = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < until:
            self.read_screen(0.05) if self.tty else time.sleep(0.01)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the daemon did not end within %g s of %s:\n%s" % (seconds, number, self.errors()))
        while self.tty and self.read_screen(0.05):
            pass
        return self.process.returncode

    def close(self):
        """Ends it and checks what it leaves behind."""
        ended_by_itself = self.process.poll() is not None
        self.stop()
        errors = self.errors()
        if self.master is not None:
            os.close(self.master)
            self.master = None
        assert "Traceback" not in self.history + errors, self.history + errors
        assert ended_by_itself or not self.run_directories(), "the daemon left its directory behind"
        shutil.rmtree(str(self.temporary), ignore_errors=True)


@pytest.fixture
def start(tmp_path):
    """A function that starts the program: start("noauth", "-nosafe", tty=False, env={}, ready=True) -> Daemon."""
    daemons = []

    def start_one(*arguments, **options):
        ready = options.pop("ready", True)
        directory = options.pop("directory", None) or tmp_path / ("work%d" % len(daemons))
        pathlib.Path(str(directory)).mkdir(exist_ok=True)
        port = "0"
        if "-url" in arguments or "NGROK_AUTHTOKEN" in options.get("env", {}):  # where start-up does not tell the port
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", 0))
                port = str(sock.getsockname()[1])
        if "-port" not in arguments:
            arguments += ("-port", port)
        daemon = Daemon(arguments, directory, **options)
        daemons.append(daemon)
        return daemon.ready() if ready else daemon

    yield start_one
    for daemon in daemons:
        daemon.close()


@pytest.fixture(scope="module")
def nosafe(tmp_path_factory):
    """One daemon for a module's tests, started with noauth -nosafe."""
    directory = tmp_path_factory.mktemp("nosafe") / "work"
    directory.mkdir()
    daemon = Daemon(["noauth", "-nosafe", "-port", "0"], directory).ready()
    yield daemon
    daemon.close()
