"""What the README says is so: its curl lines run as they stand, its help is the program's, its Dockerfile is right."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import PROGRAM, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CURL_LINES = re.findall(r"^((?:.*\| )?curl .*)$", README, re.M)
OUTPUT = {  # what a line must print, where it is more than something
    "cmd=uname": "Linux",
    "seq 3": "3\n2\n1\n",
    "wc -c": "5\n",
    "exit%203": '"exit_code": 3',
    "from a script": "from a script\n",
    "document=@": "stored README.md",
    "-r 0-99": README.encode()[:100].decode(),
    "openapi.json": '"openapi": "3.1.0"',
    "tools/call": '"exit_code": 0',
}


def run(line, directory):
    """Runs a line with a .curlrc that makes curl fail, and say why, where the answer is an error."""
    (directory / ".curlrc").write_text("silent\nshow-error\nfail\n")
    environment = dict(os.environ, CURL_HOME=str(directory))
    return subprocess.run(
        ["sh", "-c", line],
        cwd=str(directory),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=30,
    )


@pytest.mark.parametrize("auth", ["noauth", "me:secret"])
def test_the_curl_lines_of_the_readme_work_as_they_stand(start, tmp_path, auth):
    daemon = start(auth, "-nosafe", "-port", "8000")
    client = tmp_path / "client"
    client.mkdir()
    shutil.copy(str(ROOT / "README.md"), str(client))
    assert len(CURL_LINES) >= 10
    for line in CURL_LINES:
        if auth != "noauth" and "-u " not in line and "openapi" not in line:
            continue
        done = run(line, client)
        shown = done.stdout.decode() + done.stderr.decode()
        assert done.returncode == 0, (line, shown)
        for part, expected in OUTPUT.items():
            if part in line:
                assert expected in done.stdout.decode(), (line, shown)
    assert (client / "copy.md").read_bytes() == (daemon.directory / "README.md").read_bytes()


def test_the_first_curl_line_asks_at_the_terminal_and_a_reason_reaches_curl(start):
    daemon = start("noauth", "-port", "8000", tty=True)
    for typed, expected in (("y\n", b"Linux"), ("n not now\n", b"not now")):
        curl = subprocess.Popen(["sh", "-c", CURL_LINES[0]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert "uname -a" in daemon.expect("y = yes")
        daemon.type(typed)
        assert expected in curl.communicate(timeout=30)[0]


def printed_by(option):
    done = subprocess.run([sys.executable, str(PROGRAM), option], stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


def test_the_help_in_the_readme_is_what_the_program_prints():
    printed = printed_by("--help")
    assert "```text\n%s```" % printed in README


def test_every_option_of_the_help_is_taken():
    options = re.findall(r"^  (-[a-z]+)", README, re.M)
    promised = "-nosafe -semisafe -host -port -url -ngrok -wait -timeout -limit -shell -log".split()
    assert set(promised) <= set(options)
    for option in options:
        command = [sys.executable, str(PROGRAM), option, "-nonsense"]
        error = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE).stderr
        assert b"no option " + option.encode() not in error


def test_the_dockerfile_starts_the_program_with_noauth_in_safe_mode_unless_told_otherwise(start):
    dockerfile = (ROOT / "Dockerfile").read_text()
    entry = re.search(r"^ENTRYPOINT (\[.*\])$", dockerfile, re.M).group(1)
    auth = re.search(r"^ENV AUTH_KEY=(\S+)$", dockerfile, re.M).group(1)
    assert entry.endswith('"/opt/mycodeinterpreter/mycodeinterpreter.py"]') and "CMD" not in dockerfile
    for name in ("tini", "sudo", "curl", "git", "ngrok"):
        assert re.search(r"\b%s\b" % name, dockerfile)
    daemon = start(env={"AUTH_KEY": auth})
    assert daemon.request("POST", "/execcmd?cmd=true").status == 403  # asked for, and there is nobody to ask
    daemon = start("-nosafe", env={"AUTH_KEY": auth})
    assert daemon.request("POST", "/execcmd?cmd=true").status == 200
    daemon = start("me:key", "-nosafe", env={"AUTH_KEY": auth})
    assert daemon.request("POST", "/execcmd?cmd=true").status == 401


def test_what_the_dockerfile_copies_is_there_and_not_ignored():
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")]
    copied = re.search(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(), re.M).group(1).split()
    assert sorted(kept) == sorted(copied) and all(os.path.exists(str(ROOT / name)) for name in copied)


def test_the_changelog_names_the_version_of_the_program():
    assert "\n## %s" % printed_by("-version").strip() in (ROOT / "CHANGELOG.md").read_text()


def test_the_token_and_the_header_of_the_examples_are_those_of_me_secret(start):
    printed = start("me:secret").output()
    tokens = re.findall(r"name\.example/([0-9a-f]{32})/mcp", README)
    headers = re.findall(r"Basic ([A-Za-z0-9+/=]{8,})", README)
    assert tokens and headers and all(one in printed for one in tokens + headers)


@pytest.mark.parametrize("kind", ["json", "toml"])
def test_what_the_readme_gives_to_paste_is_well_formed(kind):
    blocks = re.findall(r"```%s\n(.*?)```" % kind, README, re.S)
    assert blocks
    for block in blocks:
        if kind == "json":
            assert "https://name.example/mcp" in json.dumps(json.loads(block))
        else:
            tomllib = pytest.importorskip("tomllib")
            assert tomllib.loads(block)["mcp_servers"]["mycomputer"]["http_headers"]


def test_the_tests_that_the_readme_names_are_there():
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", README)
    assert len(named) > 20 and [name for name in named if "def %s(" % name not in written] == []


def daemon_of(start, tmp_path, command):
    """The program, copied alone to a directory and started there by a command of the README."""
    copy, script = tmp_path / "copy", tmp_path / "runner"
    copy.mkdir()
    shutil.copy(str(PROGRAM), str(copy))
    script.write_text("#!/bin/sh\nexec %s \"$@\"\n" % command)
    script.chmod(0o755)
    env = {"PIPX_HOME": str(tmp_path / "pipx"), "PATH": os.path.dirname(sys.executable) + ":" + os.environ["PATH"]}
    options = dict(python=str(script), program="mycodeinterpreter.py", directory=copy, env=env)
    return start("noauth", "-nosafe", ready=False, **options).ready(120)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the runners are installed with the newer Pythons' tests")
@pytest.mark.parametrize("command", ["python3", "uv run", "pipx run"])
def test_each_way_to_run_it_serves(start, tmp_path, command):
    assert "`%s mycodeinterpreter.py noauth`" % command in README
    daemon = daemon_of(start, tmp_path, command)
    assert daemon.request("POST", "/execcmd?cmd=echo%20hello", b"").body == b"hello\n"


def test_the_service_is_one_that_systemd_takes(tmp_path):
    unit = tmp_path / "mycodeinterpreter.service"
    unit.write_text(re.search(r"```ini\n(.*?)```", README, re.S).group(1))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(unit)],
        env=dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert (done.returncode, done.stdout) == (0, b"")
