"""How the daemon starts, what its command line takes, and how it ends: at any moment, soon, and leaving nothing."""

import ast
import contextlib
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import time
from urllib.parse import quote

import pytest
from conftest import PROGRAM, wait_for

SOON = 6.0  # seconds for an end that takes 2 on an idle machine; the suite runs on busy ones
# The prompt, not the question before it: until it appears, what is typed is flushed, and a ^C on its way with it.
ASKED = "\ny = yes"
COUNTING = "Ctrl+C"


def target(command):
    return "/execcmd?cmd=" + quote(command)


def post(command, length=0, host="localhost"):
    """A request for a command, as it goes over the wire."""
    lines = ["POST %s HTTP/1.1" % target(command), "Host: " + host, "Content-Length: %d" % length]
    return "\r\n".join(lines + ["", ""]).encode()


def lives(pid):
    """Whether a process runs; one that only waits to be buried does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return not os.path.exists("/proc/self/stat")


def pid_in(path):
    return wait_for(lambda: path.exists() and path.read_text().strip() and int(path.read_text()), what=str(path))


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def send_signal(daemon, how):
    """Ends the daemon as a person at the terminal, or another process, does."""
    if how == "typed":
        daemon.type("\x03")
    elif how == "hangup":  # its terminal's window is closed
        daemon.errors()
        os.close(daemon.master)
        daemon.master, daemon.tty = None, False
    else:
        daemon.process.send_signal(getattr(signal, how))


def ends_well(daemon, began):
    """Waits for the daemon's end and checks it."""
    until = began + 3 * SOON
    while daemon.process.poll() is None and time.monotonic() < until:
        daemon.read_screen(0.02) if daemon.master is not None else time.sleep(0.01)
    assert daemon.process.poll() is not None, "it does not end"
    assert time.monotonic() - began < SOON
    while daemon.read_screen(0.05):
        pass
    errors = daemon.screen + daemon.err_path.read_text(errors="replace")
    assert "Traceback" not in errors and "Exception" not in errors, errors
    assert daemon.process.returncode == 0, errors
    assert not daemon.run_directories()
    assert not [name for name in os.listdir(str(daemon.directory)) if name.startswith(".")]


# The end, at any moment. Each state prepares itself on a daemon and yields when it is reached.


@contextlib.contextmanager
def idle(daemon):
    with daemon.connect() as sock:  # kept alive
        sock.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(1000)
        yield


@contextlib.contextmanager
def question_open(daemon):
    with daemon.connect() as sock:
        sock.sendall(post("touch ran"))
        daemon.expect(ASKED)
        yield
        assert not (daemon.directory / "ran").exists()


@contextlib.contextmanager
def several_waiting(daemon):
    with contextlib.ExitStack() as stack:
        for number in range(5):
            stack.enter_context(daemon.connect()).sendall(post("touch ran%d" % number))
        daemon.expect(ASKED)
        yield
        assert os.listdir(str(daemon.directory)) == []


@contextlib.contextmanager
def counting_down(daemon):
    with daemon.connect() as sock:
        sock.sendall(post("touch ran"))
        daemon.expect(COUNTING)
        yield
        assert not (daemon.directory / "ran").exists()


@contextlib.contextmanager
def command_running(daemon):
    """The command has a child, and neither ends when asked politely."""
    with daemon.connect() as sock:
        sock.sendall(post("trap '' TERM INT HUP; sleep 987 & echo $! >child; echo $$ >shell; wait; wait"))
        pids = [pid_in(daemon.directory / name) for name in ("child", "shell")]
        (directory,) = daemon.run_directories()
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        yield
        wait_for(lambda: not any(map(lives, pids)), SOON, "the command's end")


@contextlib.contextmanager
def jobs_left_behind(daemon):
    """One job holds the pipe, one does not, one belongs to a command that was answered 202."""
    commands = ["sleep 987 & echo $! >a", "sleep 987 >/dev/null 2>&1 & echo $! >b", "echo $$ >c; exec sleep 987"]
    for command in commands:
        answer = daemon.request("POST", target(command) + "&wait=0.5", b"")
        assert answer.status == (202 if "exec" in command else 200)
    pids = [pid_in(daemon.directory / name) for name in "abc"]
    assert all(map(lives, pids))
    yield
    wait_for(lambda: not any(map(lives, pids)), SOON, "the jobs' end")


@contextlib.contextmanager
def upload_half_way(daemon):
    (daemon.directory / "f").write_text("before")
    with daemon.connect() as sock:
        sock.sendall(
            b"POST /send-file HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: 1000000\r\n\r\n--b\r\nContent-Disposition: form-data; name=a; filename=f\r\n\r\n"
        )
        sock.sendall(b"x" * 100000)
        wait_for(lambda: len(os.listdir(str(daemon.directory))) > 1, what="the temporary file")
        yield
        assert (daemon.directory / "f").read_text() == "before"
        assert os.listdir(str(daemon.directory)) == ["f"]


@contextlib.contextmanager
def download_half_way(daemon):
    with open(str(daemon.directory / "large"), "wb") as file:
        file.truncate(1 << 30)
    with daemon.connect() as sock:
        sock.sendall(b"GET /get-file?filename=large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(100000).startswith(b"HTTP/1.1 200 ")
        yield


@contextlib.contextmanager
def request_half_way(daemon):
    with daemon.connect() as sock, daemon.connect() as other:
        sock.sendall(b"POST /execcmd HTTP/1.1\r\nHost: loc")
        other.sendall(post("cat", length=1000) + b"x")
        yield


NOSAFE, COUNTED = ["-nosafe"], ["-nosafe", "-semisafe"]
ENDS = [
    (idle, NOSAFE, ["typed", "SIGTERM", "SIGHUP", "hangup"]),
    (question_open, [], ["typed", "SIGINT", "SIGTERM", "SIGHUP", "hangup"]),
    (several_waiting, [], ["typed", "SIGTERM"]),
    (counting_down, COUNTED, ["SIGTERM", "hangup"]),
    (command_running, NOSAFE, ["typed", "SIGTERM"]),
    (jobs_left_behind, NOSAFE, ["SIGTERM"]),
    (upload_half_way, NOSAFE, ["typed", "SIGTERM"]),
    (download_half_way, NOSAFE, ["SIGTERM"]),
    (request_half_way, NOSAFE, ["SIGTERM"]),
]


@pytest.mark.parametrize(
    "state, options, how",
    [(state, options, how) for state, options, hows in ENDS for how in hows],
    ids=lambda value: getattr(value, "__name__", value if isinstance(value, str) else ""),
)
def test_a_signal_ends_it_soon_and_it_leaves_nothing(start, state, options, how):
    daemon = start("noauth", *options, tty=True)
    with state(daemon):
        began = time.monotonic()
        send_signal(daemon, how)
        ends_well(daemon, began)


@pytest.mark.parametrize("state, options", [(idle, NOSAFE), (question_open, []), (command_running, NOSAFE)])
def test_signals_that_repeat_end_it_no_worse(start, state, options):
    """A terminal that closes sends SIGHUP and its supervisor SIGTERM; people press Ctrl+C until it is gone."""
    daemon = start("noauth", *options, tty=True)
    with state(daemon):
        began = time.monotonic()
        while daemon.process.poll() is None and time.monotonic() < began + SOON:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                daemon.process.send_signal(number)
                daemon.read_screen(0.01)
        ends_well(daemon, began)


def test_a_terminal_that_stands_still_does_not_keep_it_alive(start):
    """Its window's scroll is locked (Ctrl+S), or the line is cut, while a long question is drawn."""
    daemon = start("noauth", tty=True)
    with daemon.connect() as sock:
        sock.sendall(post("touch ran #" + "x" * 60000))
        wait_for(lambda: select.select([daemon.master], [], [], 0)[0], what="the question's beginning")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.wait(SOON)
    ends_well(daemon, time.monotonic())
    assert os.listdir(str(daemon.directory)) == []


def test_who_waits_when_it_ends_is_told_so_or_hung_up_on(start):
    daemon = start("noauth", tty=True)
    with daemon.connect() as sock:
        sock.sendall(post("touch ran"))
        daemon.expect(ASKED)
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        assert re.match(rb"HTTP/1.1 (403|408|503) |\Z", sock.recv(100))  # nothing where it could not be in time
        ends_well(daemon, began)
    assert not (daemon.directory / "ran").exists()


def test_nohup_keeps_it_alive(start, tmp_path):
    nohup = tmp_path / "nohup.py"
    nohup.write_text(wrapped("signal.signal(signal.SIGHUP, signal.SIG_IGN)"))
    daemon = start("noauth", "-nosafe", program=nohup)
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.request("POST", "/execcmd?cmd=echo", b"").status == 200
    assert daemon.stop() == 0


# The start


def wrapped(preparation):
    """A program that prepares something and becomes the daemon."""
    return "import os, signal, sys\n%s\nos.execv(sys.executable, [sys.executable, %r] + sys.argv[1:])\n" % (
        preparation,
        str(PROGRAM),
    )


def test_the_start_up_lines_are_as_scripts_expect_them(start):
    daemon = start("noauth", "-nosafe", env={"PYTHONUNBUFFERED": ""})
    lines = daemon.output().split("\n")  # it still runs, so that they have been flushed
    url = "http://127.0.0.1:%d" % daemon.port
    assert lines[-2:] == ["Starting server at " + url, ""]
    assert "OpenAPI schema at %s/openapi.json" % url in lines
    assert daemon.request("GET", "/openapi.json").status == 200


def test_the_start_up_lines_name_the_public_url(start):
    daemon = start("noauth", "-url", "https://public.example/")
    lines = daemon.output().split("\n")
    assert lines[-2:] == ["Starting server at https://public.example", ""]
    assert "OpenAPI schema at https://public.example/openapi.json" in lines


def test_port_0_takes_a_free_one_each_time(start):
    ports = {start("noauth", "-nosafe", "-port", "0").port for _ in range(2)}
    assert len(ports) == 2 and 0 not in ports and 8000 not in ports


def run(*arguments, **options):
    """Runs the program to its end: (exit status, stdout, stderr)."""
    env = {k: v for k, v in os.environ.items() if k not in ("NGROK_AUTHTOKEN", "AUTH_KEY")}
    env.update(PYTHONDONTWRITEBYTECODE="1", **options.pop("env", {}))
    done = subprocess.run(
        [sys.executable, str(PROGRAM)] + list(arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        timeout=10,
        **options
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def is_one_line(text):
    return re.match(r"[^\n]+\n\Z", text) is not None


def test_a_busy_port_is_said_in_one_line():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1)
        port = sock.getsockname()[1]
        status, out, err = run("noauth", "-port", str(port))
    assert (status, out) == (1, "") and is_one_line(err) and str(port) in err


@pytest.mark.parametrize("host", ["203.0.113.1", "2001:db8::1"])
def test_an_address_that_is_not_allowed_is_said_in_one_line(host):
    status, out, err = run("noauth", "-port", "0", "-host", host)
    assert (status, out) == (1, "") and is_one_line(err) and host in err


WRONG = [
    ["-frobnicate"],
    ["--frobnicate"],
    ["-x"],
    ["another"],
    ["-port"],
    ["-port", "x"],
    ["-port", "70000"],
    ["-port", "-1"],
    ["-port", ""],
    ["-wait", "-1"],
    ["-wait", "nan"],
    ["-wait", "inf"],
    ["-timeout", "-1"],
    ["-timeout", "never"],
    ["-limit", "1.5"],
    ["-limit", "-1"],
    ["-url", "nonsense"],
    ["-url", "ftp://public.example"],
    ["-url", ""],
    ["-host", ""],
    ["-host="],
    ["-log", ""],
    ["-filehost", ""],
    ["-shell", ""],
    ["-shell", "sh -c 'open"],
    ["-ngrok", "nonsense"],
    ["-ngrok", "unknown=value"],
    ["-nosafe=yes"],
    # abbreviations: an option that is added later would change what they mean
    ["-nos"],
    ["--nosaf"],
    ["-semi"],
    ["--por", "0"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_a_wrong_argument_is_said_in_one_line(arguments):
    status, out, err = run("noauth", "-port", "0", *arguments)
    assert (status, out) == (2, "") and is_one_line(err)


def test_as_a_module_it_is_kept_compiled(tmp_path):
    shutil.copy(str(PROGRAM), str(tmp_path))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "mycodeinterpreter", "-version"]
    done = subprocess.run(command, cwd=str(tmp_path), env=env, stdout=subprocess.PIPE, check=True, timeout=10)
    assert done.stdout.decode() == run("-version")[1]
    assert list(tmp_path.glob("__pycache__/mycodeinterpreter.*.pyc"))


@pytest.mark.parametrize("auth", ["", "user:", ":"])
def test_an_empty_key_is_refused(auth):
    for arguments, env in (([auth], {}), ([], {"AUTH_KEY": auth})):
        status, out, err = run("-port", "0", *arguments, env=env)
        assert (status, out) == (2, "") and "Traceback" not in err
        assert is_one_line(err) or not auth


def test_without_auth_it_shows_its_usage():
    status, out, err = run("-port", "0")
    assert (status, out) == (2, "")
    assert "usage: mycodeinterpreter.py AUTH [-nosafe] [-semisafe]" in err


@pytest.mark.parametrize("dashes", ["-", "--"])
def test_options_are_taken_with_one_dash_and_two(start, dashes):
    port = free_port()
    options = {"host": "127.0.0.2", "port": port, "url": "https://public.example", "wait": 30, "timeout": 0.5}
    options.update(limit=7, shell="env MARK=shell sh -c", log="audit", nosafe=None)
    if dashes == "--":  # it costs 2 s, and with one dash others use it
        options["semisafe"] = None
    arguments = ["noauth"]
    for name in sorted(options):
        arguments += [dashes + name] + ([] if options[name] is None else [str(options[name])])
    daemon = start(*arguments, "-port", str(port))  # the fixture asks for port 0 where it sees none
    with socket.create_connection(("127.0.0.2", port), timeout=20) as sock:
        began = time.monotonic()
        sock.sendall(post("echo $MARK; echo 1234567890; sleep 987", host="public.example"))
        answer = sock.recv(10000)
        assert time.monotonic() - began > (1.9 if dashes == "--" else 0.4)
    assert answer.startswith(b"HTTP/1.1 408 ") and b"timed out after 0.5 s" in answer
    assert b"shel" in answer and b"1234567890" not in answer  # -limit
    assert (COUNTING in daemon.errors()) == (dashes == "--")
    wait_for(lambda: (daemon.directory / "audit").read_text().endswith("}\n"), what="the audit trail")
    assert json.loads((daemon.directory / "audit").read_text().split("\n")[0])["status"] == 408


def test_a_key_may_begin_with_a_dash(start):
    daemon = start("-nosafe", "-port", "0", "--", "-sesame")
    assert daemon.request("POST", "/execcmd?cmd=echo", b"", {"Authorization": "Bearer -sesame"}).status == 200


@pytest.mark.parametrize("option", ["-port=0", "--port=0"])
def test_a_value_may_follow_an_equals_sign(start, option):
    assert start("noauth", "-nosafe", "-port", "1", option).port != 1


@pytest.mark.parametrize("option", ["--help", "-help", "-h"])
def test_help_names_every_option(option):
    status, out, err = run(option)
    assert (status, err) == (0, "")
    options = {"nosafe", "semisafe", "host", "port", "url", "ngrok", "wait", "timeout", "limit", "shell", "log"}
    assert options <= set(re.findall(r"(?m)^\s+(?:\S+, )?--?(\w+)", out))
    assert {"AUTH", "AUTH_KEY", "NGROK_AUTHTOKEN"} <= set(re.findall(r"\w+", out))


@pytest.mark.parametrize("option", ["-version", "--version"])
def test_version_is_one_line(option):
    status, out, err = run(option)
    assert (status, err) == (0, "") and is_one_line(out) and re.search(r"\b\d+\.\d+\.\d+\b", out)


def test_a_copy_of_the_program_alone_serves(start, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(str(PROGRAM), str(alone))
    daemon = start("noauth", "-nosafe", directory=alone, program=alone / PROGRAM.name, env={"PYTHONNOUSERSITE": "1"})
    assert daemon.request("POST", "/execcmd?cmd=echo%20hello", b"").body == b"hello\n"
    assert "/execcmd" in json.loads(daemon.request("GET", "/openapi.json").body.decode())["paths"]
    assert os.listdir(str(alone)) == [PROGRAM.name]


def is_standard(module):
    name = module.partition(".")[0]
    if hasattr(sys, "stdlib_module_names"):
        return name in sys.stdlib_module_names
    found = importlib.util.find_spec(name)
    origin = (found and found.origin) or "built-in"
    inside = origin.startswith((sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")))
    return origin in ("built-in", "frozen") or inside and "site-packages" not in origin


def test_nothing_is_imported_but_the_standard_library_and_ngrok_lazily():
    tree = ast.parse(PROGRAM.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lazy = {id(node) for function in functions for node in ast.walk(function)}
    foreign = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level
            modules = [node.module]
        else:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        foreign += [(module, id(node) in lazy) for module in modules if not is_standard(module)]
    assert foreign == [("ngrok", True)]


# The tunnel's package, and secrets


def test_a_tunnel_without_its_package_names_the_command_that_installs_it(tmp_path):
    (tmp_path / "ngrok.py").write_text("raise ImportError('No module named ngrok')\n")  # as where it is not installed
    env = {"NGROK_AUTHTOKEN": "token", "PYTHONPATH": str(tmp_path)}
    status, out, err = run("noauth", "-port", "0", env=env)
    assert (status, out) == (1, "") and is_one_line(err)
    assert re.search(r"pip3? install \S*ngrok", err) and "NGROK_AUTHTOKEN" in err


def environment(daemon, headers=None):
    """The environment that a command has."""
    with_key = headers or {}
    lines = daemon.request("POST", "/execcmd?cmd=env%20-0&limit=0", b"", with_key).body.decode().split("\0")
    return dict(line.partition("=")[::2] for line in lines)


def test_a_command_has_the_environment_but_the_secrets(start):
    env = {"AUTH_KEY": "sesame", "NGROK_AUTHTOKEN": "", "KEPT": "as it is", "NGROK_REGION": "eu"}
    daemon = start("-nosafe", env=env)
    assert daemon.request("POST", "/execcmd?cmd=env", b"").status == 401
    found = environment(daemon, {"Authorization": "Bearer sesame"})
    assert not {"AUTH_KEY", "NGROK_AUTHTOKEN"} & set(found)
    assert (found["KEPT"], found["NGROK_REGION"], found["PATH"]) == ("as it is", "eu", os.environ["PATH"])


def test_auth_on_the_command_line_wins_and_the_key_in_the_environment_stays_hidden(start):
    daemon = start("given", "-nosafe", env={"AUTH_KEY": "sesame"})
    assert daemon.request("POST", "/execcmd?cmd=env", b"", {"Authorization": "Bearer sesame"}).status == 401
    assert "AUTH_KEY" not in environment(daemon, {"Authorization": "Bearer given"})


def test_a_command_has_no_tunnel_token(start, tmp_path):
    pytest.importorskip("ngrok")
    pytest.importorskip("trustme")
    from ngrok_edge import Edge

    with Edge() as edge:
        options = ["-ngrok", "server_addr=" + edge.server_addr, "-ngrok", "root_cas=" + str(edge.root_cas)]
        port = free_port()
        daemon = start("noauth", "-nosafe", "-port", str(port), *options, env={"NGROK_AUTHTOKEN": "token"})
        daemon.port = port
        assert daemon.output().startswith("tunnel created: https://")
        assert "NGROK_AUTHTOKEN" not in environment(daemon)
        assert daemon.stop() == 0


# Warnings

WARNINGS = [
    # arguments, whether anybody may get in unasked or unknown; none of them lets a stranger of this network do anything
    (["noauth", "-host", "0.0.0.0"], True),
    (["user:key", "-nosafe", "-host", "0.0.0.0"], True),
    (["user:key", "-host", "0.0.0.0"], False),
    (["noauth", "-url", "https://public.example"], True),
    (["noauth", "-nosafe", "-url", "https://public.example"], True),
    (["user:key", "-nosafe", "-url", "https://public.example"], True),
    (["user:key", "-url", "https://public.example"], False),
    (["noauth", "-nosafe"], False),
    (["noauth", "-nosafe", "-host", "localhost"], False),
    (["noauth", "-nosafe", "-host", "127.0.0.2"], False),
    (["noauth", "-nosafe", "-host", "::1"], False),
]


@pytest.mark.parametrize("arguments, warned", WARNINGS, ids=[" ".join(arguments) for arguments, _ in WARNINGS])
def test_strangers_at_the_door_are_warned_of(start, arguments, warned):
    if "::1" in arguments:
        with socket.socket(socket.AF_INET6) as sock:
            try:
                sock.bind(("::1", 0))
            except OSError:
                pytest.skip("this machine has no IPv6 loopback")
    daemon = start(*arguments)
    if warned:
        wait_for(lambda: "WARNING" in daemon.errors(), what="the warning")
    assert daemon.stop() == 0
    assert ("WARNING" in daemon.errors()) == warned


# Without a terminal of its own

BACKGROUND = """
import os, signal, sys
child = os.fork()
if not child:
    os.setpgid(0, 0)  # what a shell does for a job that ends in &
    os.execv(sys.executable, [sys.executable, %r] + sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
while True:
    _, status = os.waitpid(child, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        os.kill(child, signal.SIGKILL)
        os.write(2, b"the daemon was stopped\\n")
    else:
        os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 99)
"""


@pytest.mark.parametrize("options, status", [([], 403), (["-nosafe", "-semisafe"], 200)], ids=["asked", "counted"])
def test_in_the_background_of_a_terminal_it_denies_rather_than_be_stopped(start, tmp_path, options, status):
    background = tmp_path / "background.py"
    background.write_text(BACKGROUND % str(PROGRAM))
    daemon = start("noauth", *options, tty=True, program=background)
    assert daemon.request("POST", "/execcmd?cmd=echo", b"", timeout=20).status == status
    assert daemon.stop() == 0
    assert "stopped" not in daemon.errors()


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "012"])
def test_it_serves_without_its_standard_streams(start, tmp_path, closed):
    closing = tmp_path / "closing.py"
    closing.write_text(wrapped("for descriptor in map(int, %r): os.close(descriptor)" % closed))
    port = free_port()
    daemon = start("noauth", "-nosafe", "-port", str(port), program=closing, ready=False)
    daemon.port = port

    def serves():
        assert daemon.process.poll() is None, daemon.output() + daemon.errors()
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    wait_for(serves, what="a daemon without streams " + closed)
    command = "echo out; echo err >&2; cat; ls /proc/self/fd 2>/dev/null | wc -l"
    answer = daemon.request("POST", target(command), b"")
    assert answer.status == 200 and answer.body.startswith(b"out\nerr\n")
    answer = daemon.request("POST", "/execcmd?cmd=cat", b"in", {"Content-Type": "text/plain"})
    assert (answer.status, answer.body) == (200, b"in")
    assert daemon.request("GET", "/nowhere").status == 404
    assert daemon.stop() == 0
    assert not daemon.run_directories()


@pytest.mark.parametrize("closed", ["0", "02"])
def test_in_safe_mode_it_denies_without_its_standard_streams(start, tmp_path, closed):
    closing = tmp_path / "closing.py"
    closing.write_text(wrapped("for descriptor in map(int, %r): os.close(descriptor)" % closed))
    daemon = start("noauth", program=closing)
    assert daemon.request("POST", "/execcmd?cmd=touch%20ran", b"").status == 403
    assert os.listdir(str(daemon.directory)) == []


def test_many_logs_to_remove_do_not_delay_its_end(start):
    daemon = start("noauth", "-nosafe")
    answer = daemon.request("POST", "/execcmd?limit=1&cmd=seq%209")
    directory = os.path.dirname(answer.headers["X-Log"])
    many = "cd %s; seq 100000 | xargs touch" % directory
    assert daemon.request("POST", "/execcmd?cmd=sh", many.encode(), {"Content-Type": "text/plain"}).status == 200
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < SOON
    wait_for(lambda: not daemon.run_directories(), 60, "the directory to go")


def test_it_ends_within_two_seconds_with_all_under_way(start):
    seconds = []
    while len(seconds) < 3 and not (seconds and min(seconds) < 2):  # a busy machine may be late
        daemon = start("noauth", "-nosafe", "-log", "audit")
        for command in ("sleep 300", "yes", "seq 1000000 | cat; sleep 300"):
            sock = daemon.connect()
            sock.sendall(("POST /execcmd?cmd=%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % quote(command)).encode())
        time.sleep(0.3)
        began = time.monotonic()
        assert daemon.stop() == 0
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 2
