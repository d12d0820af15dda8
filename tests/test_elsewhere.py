"""-shell puts the work elsewhere: in a sandbox (bubblewrap), or on another machine (ssh, to a server of our own)."""

import collections
import getpass
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse

import pytest
from conftest import wait_for

Elsewhere = collections.namedtuple("Elsewhere", "name shell")

BWRAP = "bwrap --dev-bind / / --unshare-pid --die-with-parent --proc /proc sh -c"
SYSTEM_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin"


def run(daemon, command, body=None, **parameters):
    """The Answer to a command; what is in the body is its standard input."""
    target = "/execcmd?" + urllib.parse.urlencode(dict(parameters, cmd=command))
    return daemon.request("POST", target, body, {"Content-Type": "application/octet-stream"})


def processes(*arguments):
    """The ids of the processes that run with exactly these arguments, in whatever sandbox on this machine."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % name, "rb") as file:
                if file.read() == b"".join(argument.encode() + b"\0" for argument in arguments):
                    found.append(int(name))
        except OSError:
            pass
    return found


def program(name, package):
    """The absolute path of a program; skips where it is missing."""
    path = shutil.which(name, path=SYSTEM_PATH)
    if not path:
        pytest.skip("%s is missing: apt-get install %s" % (name, package))
    return path


def output_of(*command):
    """(exit status, output) of a command that may not take long."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30
    )
    return done.returncode, done.stdout.decode(errors="replace").strip()


@pytest.fixture(scope="module")
def bwrap():
    """A -shell that runs commands in a sandbox with processes of its own."""
    program("bwrap", "bubblewrap")
    status, output = output_of(*(shlex.split(BWRAP) + ["true"]))
    if status:
        pytest.skip("bubblewrap is not permitted here: " + output)
    return BWRAP


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    """A -shell that runs commands through a server of the tests' own, on loopback, with keys of its own."""
    sshd = program("sshd", "openssh-server")
    client, keygen = program("ssh", "openssh-client"), program("ssh-keygen", "openssh-client")
    directory = tmp_path_factory.mktemp("ssh")
    for key in "host", "user":
        subprocess.check_call([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key)])
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    (directory / "known").write_text("[127.0.0.1]:%d %s" % (port, (directory / "host.pub").read_text()))
    settings = {"port": port, "user": getpass.getuser(), "directory": directory}
    server_file = (
        "ListenAddress 127.0.0.1:{port}\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/user.pub\n"
        "PidFile none\nMaxStartups 1000\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "PermitRootLogin prohibit-password\n"
    )
    client_file = (
        "Host box\nHostName 127.0.0.1\nPort {port}\nUser {user}\nIdentityFile {directory}/user\nIdentitiesOnly yes\n"
        "UserKnownHostsFile {directory}/known\nBatchMode yes\nLogLevel ERROR\n"
    )
    (directory / "server").write_text(server_file.format(**settings))
    (directory / "client").write_text(client_file.format(**settings))
    made = None
    if os.geteuid() == 0 and not os.path.isdir("/run/sshd"):  # where the server of Debian locks itself up
        made = "/run/sshd"
        os.mkdir(made, 0o755)
    with open(str(directory / "log"), "wb") as log:
        server = subprocess.Popen(
            [sshd, "-D", "-e", "-f", str(directory / "server")], stdin=subprocess.DEVNULL, stderr=log
        )
    try:
        command = [client, "-F", str(directory / "client"), "box"]
        wait_for(
            lambda: server.poll() is not None or "listening" in (directory / "log").read_text().lower(),
            15,
            "the ssh server",
        )
        status, output = output_of(*(command + ["true"]))
        if status:
            pytest.skip("ssh to this machine is not possible: " + " ".join(output.split()))
        yield " ".join(map(shlex.quote, command))
    finally:
        server.terminate()
        server.wait()
        if made:
            os.rmdir(made)


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/cmdline"), reason="looks into /proc, which Linux has")


@pytest.fixture(params=["bwrap", "ssh"])
def elsewhere(request):
    """Each -shell in turn."""
    return Elsewhere(request.param, request.getfixturevalue(request.param))


def test_commands_run_there(elsewhere, start):
    daemon = start("noauth", "-nosafe", "-shell", elsewhere.shell)
    inside = {"bwrap": "test $$ -lt 10", "ssh": 'test -n "$SSH_CONNECTION"'}[elsewhere.name]
    answer = run(daemon, "%s && printf 'a  b\\0\\377' && echo \"$((1+1))\" '\"%%s\"'" % inside)
    assert (answer.status, answer.body) == (200, b'a  b\0\3772 "%s"\n')
    assert run(daemon, "for i in 1 2; do\n  echo $i # one a line\ndone").body == b"1\n2\n"


def test_the_exit_code_comes_back(elsewhere, start):
    daemon = start("noauth", "-nosafe", "-shell", elsewhere.shell)
    answer = run(daemon, "echo out; echo err >&2; exit 3")
    assert answer.status == 200 and answer.headers["X-Exit-Code"] == "3"
    assert sorted(answer.body.splitlines()) == [b"[exit code 3]", b"err", b"out"]
    assert answer.body.endswith(b"[exit code 3]\n")
    assert run(daemon, "exit 0").body == b""


def test_standard_input_reaches_it(elsewhere, start):
    daemon = start("noauth", "-nosafe", "-shell", elsewhere.shell)
    data = os.urandom(3 << 20)
    expected = subprocess.run(["cksum"], input=data, stdout=subprocess.PIPE).stdout
    assert run(daemon, "cksum", data).body == expected
    assert run(daemon, "sh", b"echo a script\nexit 4\n").body == b"a script\n[exit code 4]\n"
    assert run(daemon, "cat; echo end").body == b"end\n"  # and where there is none it is at its end


def test_its_output_is_bounded(elsewhere, start):
    daemon = start("noauth", "-nosafe", "-shell", elsewhere.shell)
    answer = run(daemon, "seq 1 100000; exit 5", limit=1000)
    assert answer.status == 200 and len(answer.body) < 2000
    assert "[exit code 5; \u2026 587895 bytes left out \u2026; the whole output is in /" in answer.body.decode()
    assert answer.body.startswith(b"1\n2\n3\n") and b"\n99999\n100000\n[" in answer.body


@needs_proc
def test_a_timeout_ends_it(elsewhere, start):
    """All of it in the sandbox; on another machine what this machine started: the client is gone."""
    timeout = {"bwrap": "1.5", "ssh": "2.5"}[elsewhere.name]  # it takes ssh a while to get there
    daemon = start("noauth", "-nosafe", "-timeout", timeout, "-shell", elsewhere.shell)
    seconds = "3%07d" % os.getpid()
    inner = ["sleep", seconds]
    outer = shlex.split(elsewhere.shell) + ["echo begun; sleep %s & sleep %s; echo no" % (seconds, seconds)]
    try:
        answer = run(daemon, outer[-1])
        assert (answer.status, answer.body) == (408, b"begun\n[timed out after %s s; killed]\n" % timeout.encode())
        wait_for(lambda: not processes(*outer), 10, "the end of " + outer[0])
        if elsewhere.name == "bwrap":
            wait_for(lambda: not processes(*inner), 10, "the end of the processes in the sandbox")
        assert run(daemon, "echo on").body == b"on\n"
    finally:
        for pid in processes(*inner):
            os.kill(pid, signal.SIGKILL)


def test_it_goes_on_after_its_answer(elsewhere, start):
    """bwrap --die-with-parent dies with the thread that started it, so that thread must stay."""
    daemon = start("noauth", "-nosafe", "-shell", elsewhere.shell)
    answer = run(daemon, "sleep 1; echo done", wait=0.4)
    assert answer.status == 202, answer
    log = pathlib.Path(answer.headers["X-Log"])
    assert wait_for(log.read_bytes, 15, "the rest of the output") == b"done\n"


@needs_proc
def test_it_ends_with_the_daemon(elsewhere, start):
    daemon = start("noauth", "-nosafe", "-wait", "0.5", "-shell", elsewhere.shell)
    seconds = "4%07d" % os.getpid()
    inner = ["sleep", seconds]
    outer = shlex.split(elsewhere.shell) + ["sleep %s; echo no" % seconds]
    try:
        answer = run(daemon, outer[-1])
        assert answer.status == 202, answer
        wait_for(lambda: processes(*outer) and processes(*inner), 10, "the command to run")
        assert daemon.stop() == 0
        wait_for(lambda: not processes(*outer), 10, "the end of " + outer[0])
        if elsewhere.name == "bwrap":
            wait_for(lambda: not processes(*inner), 10, "the end of the processes in the sandbox")
    finally:
        for pid in processes(*inner):
            os.kill(pid, signal.SIGKILL)


def test_a_background_job_in_the_sandbox_does_not_hold_the_answer(bwrap, start):
    daemon = start("noauth", "-nosafe", "-shell", bwrap)
    seconds = "5%07d" % os.getpid()
    begun = time.monotonic()
    assert run(daemon, "sleep %s & echo started" % seconds).body == b"started\n"
    assert time.monotonic() - begun < 20
    wait_for(lambda: not processes("sleep", seconds), 10, "the sandbox to end with its shell")


def test_a_machine_that_is_not_there_is_told(ssh, start):
    """What ssh says and its exit code, 255, are the answer."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound, but nobody listens
        client = shlex.split(ssh)
        client[-1:] = ["-p", str(sock.getsockname()[1]), client[-1]]
        daemon = start("noauth", "-nosafe", "-shell", " ".join(map(shlex.quote, client)))
        answer = run(daemon, "echo no")
    assert answer.status == 200 and b"refused" in answer.body and answer.body.endswith(b"\n[exit code 255]\n")
