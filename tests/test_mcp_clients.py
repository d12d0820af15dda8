"""Clients that others made: the official one of MCP for Python, the MCP Inspector, one generated from the schema.

Each is installed once, pinned, in a folder of its own (.venv-* in the repository, or in the folder that CLIENTS in the
environment names) which later runs use again; where that is not possible its tests are skipped and say why.
"""

import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

# They speak HTTP to the daemon from a process of their own: what they prove, one version of Python proves.
pytestmark = [
    pytest.mark.skipif(sys.version_info < (3, 11), reason="the clients of others need a later Python"),
    pytest.mark.timeout(600),  # with the installation
]
FOLDER = pathlib.Path(os.environ.get("CLIENTS") or str(ROOT))
CALLS = [
    ["execcmd", {"cmd": "echo out; echo err >&2; exit 3"}],
    ["send-file", {"filename": "../sent \u20ac", "content": "line\n\u20ac"}],
    ["get-file", {"filename": "sent \u20ac"}],
]
PIPES = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
REFUSED = ["execcmd", {"cmd": "echo > refused"}]


def succeed(command, **options):
    """Runs a command to its end and returns its standard output; skips the test where it fails."""
    try:
        done = subprocess.run(command, check=False, timeout=500, **dict(PIPES, **options))
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip("%s: %s" % (command[0], error))
    if done.returncode:
        lines = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines() or ["failed"]
        pytest.skip("%s ends with exit code %d: %s" % (os.path.basename(command[0]), done.returncode, lines[-1]))
    return done.stdout


def installed(name, install):
    """The folder of that name, in which install(folder) has succeeded once; other sessions wait meanwhile."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    with open(str(folder / "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            install(folder)
            (folder / "ready").touch()
    return folder


def packages(name, *requirements):
    """The python of a virtual environment with some packages."""

    def install(folder):
        succeed([sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        succeed(pip + list(requirements))

    return str(installed(name, install) / "bin" / "python")


def environment(home, **more):
    """For a client, which is to see neither the proxies nor the settings of who runs the tests."""
    names = ("PATH", "LANG", "LC_ALL", "TMPDIR")
    return dict({name: os.environ[name] for name in names if name in os.environ}, HOME=str(home), **more)


class Client:
    """A process that writes JSON on its standard output."""

    def __init__(self, command, home, **more):
        self.process = subprocess.Popen(command, env=environment(home, **more), **PIPES)

    def answer(self, seconds=60):
        """(exit status, what it has written)"""
        try:
            out, err = self.process.communicate(timeout=seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.communicate()
        assert out, err.decode("utf-8", "replace")
        return self.process.returncode, json.loads(out.decode())


# The official client

DRIVER = """
import asyncio, json, sys

url, era, calls = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

async def use(session, version):
    dump = lambda model: model.model_dump(mode="json", by_alias=True)
    tools = dump(await session.list_tools())["tools"]
    results = [dump(await session.call_tool(name, arguments)) for name, arguments in calls]
    print(json.dumps({"version": version, "tools": tools, "results": results}))

async def of_version_1():
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client
    async with streamable_http_client(url) as (reader, writer, _), ClientSession(reader, writer) as session:
        await use(session, (await session.initialize()).protocolVersion)

async def of_version_2():
    from mcp import Client
    async with Client(url, mode=era) as client:
        await use(client, client.protocol_version)

asyncio.run(of_version_2() if era else of_version_1())
"""

ERAS = [("1.30.0", "", "2025-11-25"), ("2.3.0", "legacy", "2025-11-25"), ("2.3.0", "auto", "2026-07-28")]


@pytest.fixture(params=ERAS, ids=lambda row: " ".join(filter(None, row[:2])))
def official(request, tmp_path):
    """(a function that starts the official client with a URL and calls, the protocol version that it should choose)"""
    version, era, chosen = request.param
    python = packages(".venv-mcp-" + version, "mcp==" + version)
    return lambda url, calls: Client([python, "-c", DRIVER, url, era, json.dumps(calls)], tmp_path), chosen


def check_tools(tools):
    assert [tool["name"] for tool in tools] == ["execcmd", "get-file", "send-file"]
    assert [bool(tool["annotations"].get("readOnlyHint")) for tool in tools] == [False, True, False]
    assert tools[0]["inputSchema"]["required"] == ["cmd"]


def check_results(daemon, results):
    """Of CALLS."""
    assert [bool(result.get("isError")) for result in results] == [True, False, False]
    assert results[0]["content"][0]["text"] == "out\nerr\n[exit code 3]\n"
    assert results[0]["structuredContent"]["exit_code"] == 3
    assert "stored" in results[1]["content"][0]["text"]
    assert (daemon.directory / "sent \u20ac").read_text(encoding="utf-8") == "line\n\u20ac"
    assert results[2]["content"][0]["text"] == "line\n\u20ac"


def answer_question(daemon, name, answer):
    daemon.expect("%s asked for by 127.0.0.1" % name, 30)
    daemon.expect("n REASON")
    daemon.expect(": ")
    daemon.type(answer + "\n")


def secret_url(daemon):
    return daemon.output().partition("secret URL: ")[2].partition("\n")[0] + "/mcp"


def test_the_official_client_lists_the_tools_and_runs_each(official, nosafe):
    client, chosen = official
    status, found = client("http://127.0.0.1:%d/mcp" % nosafe.port, CALLS).answer()
    assert status == 0 and found["version"] == chosen
    check_tools(found["tools"])
    check_results(nosafe, found["results"])


def test_the_official_client_runs_each_tool_that_is_approved(official, start):
    daemon = start("me:secret", tty=True)
    client = official[0](secret_url(daemon), CALLS + [REFUSED])
    try:
        for name, _ in CALLS:
            answer_question(daemon, name, "y")
        answer_question(daemon, "execcmd", "n not today")
    finally:
        status, found = client.answer()
    assert status == 0
    check_results(daemon, found["results"][:-1])
    assert found["results"][-1]["isError"] is True
    assert found["results"][-1]["content"][0]["text"].endswith("denied by the operator: not today")
    assert not (daemon.directory / "refused").exists()


# The Inspector's command line

INSPECTOR = "@modelcontextprotocol/inspector@2.12.0"


@pytest.fixture
def inspector(tmp_path):
    """A function that starts the Inspector with some options."""
    npm = shutil.which("npm")
    if not npm:
        pytest.skip("the Inspector needs npm")

    def install(folder):
        succeed([npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error", INSPECTOR])

    command = str(installed(".venv-inspector", install) / "node_modules" / ".bin" / "mcp-inspector")
    succeed([command, "--cli", "--help"], env=environment(tmp_path))  # this node may be too old for it

    def start_one(url, *options):
        return Client([command, "--cli", url, "--transport", "http"] + list(options), tmp_path)

    return start_one


def tool_options(name, arguments):
    return ["--method", "tools/call", "--tool-name", name, "--tool-args-json", json.dumps(arguments)]


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspector_lists_the_tools_and_runs_each(inspector, nosafe, era):
    url, options = "http://127.0.0.1:%d/mcp" % nosafe.port, ["--protocol-era", era]
    status, found = inspector(url, "--method", "tools/list", "--strict", *options).answer()
    assert status == 0, "it finds the schemas of the tools at fault"
    check_tools(found["tools"])
    check_results(nosafe, [inspector(url, *(options + tool_options(*call))).answer()[1] for call in CALLS])


def test_the_inspector_runs_each_tool_that_is_approved(inspector, start):
    daemon, results = start("me:secret", tty=True), []
    options = ["--header", "Authorization: Bearer secret"]
    for call in CALLS + [REFUSED]:
        client = inspector("http://127.0.0.1:%d/mcp" % daemon.port, *(options + tool_options(*call)))
        try:
            answer_question(daemon, call[0], "n not today" if call is REFUSED else "y")
        finally:
            results.append(client.answer()[1])
    check_results(daemon, results[:-1])
    assert results[-1]["isError"] is True and results[-1]["content"][0]["text"].endswith(": not today")
    assert not (daemon.directory / "refused").exists()


# A client generated from the schema

GENERATED = """
import json, sys
from generated import AuthenticatedClient
from generated.api.default import execcmd, get_file
from generated.models import ExeccmdBody

client = AuthenticatedClient(base_url=sys.argv[1], token="bWU6c2VjcmV0", prefix="Basic")
answers = [
    execcmd.sync_detailed(client=client, cmd="echo a & echo b; wait"),
    execcmd.sync_detailed(client=client, cmd="cat", limit=100, wait=5.0, body=ExeccmdBody(stdin="in")),
    get_file.sync_detailed(client=client, filename="there"),
    get_file.sync_detailed(client=client, filename="there", openai_file_response=True),
]
print(json.dumps([[answer.status_code, answer.content.decode()] for answer in answers]))
"""


def test_a_client_generated_from_the_schema_runs_a_command(start, tmp_path):
    python = packages(".venv-openapi-client", "openapi-python-client==0.29.1")
    daemon = start("me:secret", "-nosafe")
    (daemon.directory / "there").write_text("here")
    url = "http://127.0.0.1:%d" % daemon.port
    generate = [python, "-m", "openapi_python_client", "generate", "--url", url + "/openapi.json", "--meta", "none"]
    generate += ["--output-path", str(tmp_path / "generated")]
    done = subprocess.run(generate, env=environment(tmp_path), check=False, timeout=60, **PIPES)
    assert (tmp_path / "generated" / "client.py").exists(), (done.stdout + done.stderr).decode()
    status, answers = Client([python, "-c", GENERATED, url], tmp_path, PYTHONPATH=str(tmp_path)).answer()
    assert status == 0 and [code for code, _ in answers] == [200] * 4, answers
    assert sorted(answers[0][1].split()) == ["a", "b"] and [text for _, text in answers[1:3]] == ["in", "here"]
    assert json.loads(answers[3][1])["openaiFileResponse"][0]["content"] == "aGVyZQ=="
