"""GET /: what the page holds and under which headers, and in a real browser what a person does with it."""

import base64
import hashlib
import html
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from conftest import PROGRAM, wait_for
from test_mcp_clients import installed

import mycodeinterpreter as program

if sys.version_info >= (3, 11):
    from playwright.sync_api import sync_playwright

# Chromium speaks HTTP to the daemon: what it proves, one version of Python proves.
browser = pytest.mark.skipif(sys.version_info < (3, 11), reason="the browser's driver needs a later Python")
BASIC = "Basic bWU6c2VjcmV0"  # me:secret
MODES = {
    "Safe: ": [],
    "Safe and semisafe: ": ["-semisafe"],
    "Semisafe: ": ["-nosafe", "-semisafe"],
    "Nosafe: ": ["-nosafe"],
}
HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;<b>{{mode}}\u202e\udcff"


def told(body):
    """{term: description} of what the page lists, as a person reads it."""
    pairs = re.findall(r"<dt>(.*?)</dt><dd>(.*?)(?:<button.*?)?</dd>", body.decode(), re.S)
    return {html.unescape(name): html.unescape(re.sub(r"<[^>]*>", "", text)) for name, text in pairs}


def local(daemon, path="/"):
    return "http://127.0.0.1:%d%s" % (daemon.port, path)


def token_of(daemon):
    return re.search(r"secret URL: \S+/([0-9a-f]{32})\n", daemon.output()).group(1)


# What is sent


def test_it_is_one_page_that_its_policy_lets_do_no_more_than_it_needs(nosafe):
    answer = nosafe.request("GET", "/")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "no-store" in answer.headers.get_all("Cache-Control")
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    text = answer.body.decode()
    policy = dict(one.strip().split(" ", 1) for one in answer.headers["Content-Security-Policy"].split(";"))
    for kind in ("style", "script"):
        (block,) = re.findall(r"<%s>(.*?)</%s>" % (kind, kind), text, re.S)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert policy.pop(kind + "-src") == "'sha256-%s'" % digest
        assert len(re.findall("(?i)<%s" % kind, text)) == 1
    assert policy.pop("connect-src") == "'self'" and policy.pop("img-src") == "data:"
    assert set(policy) == {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert set(policy.values()) == {"'none'"}
    assert re.findall(r"""(?i)\b(?:src|href|action)="([^"]*)""", text) == ["data:,"]
    assert not re.search(r"(?i)<[^>]* (on[a-z]+|style)=", text)


def test_head_has_the_headers_of_get_and_nothing_more(nosafe):
    head, get = nosafe.request("HEAD", "/"), nosafe.request("GET", "/")
    assert head.body == b"" and head.headers["Content-Length"] == str(len(get.body))
    assert head.headers["Content-Security-Policy"] == get.headers["Content-Security-Policy"]


@pytest.mark.parametrize("mode", sorted(MODES))
def test_it_says_which_mode_is_in_force_and_where(start, mode):
    daemon = start("noauth", *MODES[mode])
    shown = told(daemon.request("GET", "/").body)
    assert shown["Mode"].startswith(mode) and shown["Directory"] == str(daemon.directory)


def test_with_noauth_it_has_urls_alone(nosafe):
    body = nosafe.request("GET", "/").body
    shown = told(body)
    assert shown["ChatGPT, Claude.ai"] == local(nosafe, "/mcp")
    assert json.loads(shown["Cursor, VS Code"]) == {"type": "http", "url": local(nosafe, "/mcp")}
    assert shown["Claude Code"] == "claude mcp add --transport http mycomputer " + local(nosafe, "/mcp")
    assert shown["Access"].startswith("Noauth") and b"Basic" not in body and b"None" not in body


def test_by_the_key_it_has_the_lines_of_the_start_and_the_header(start):
    daemon = start("me:secret", "-url", "https://Name.example")
    printed = dict(re.findall(r"(?m)^  (.*?): (.*)$", daemon.output()))
    assert len(printed) == 5
    for value in (BASIC, "Bearer secret"):
        shown = told(daemon.request("GET", "/", headers={"Authorization": value}).body)
        assert {name: shown[name] for name in printed} == printed
        assert shown["any other client, header"] == "Authorization: " + BASIC
        assert shown["custom GPT, schema"] == "https://name.example/openapi.json"
        assert "execcmd" in shown["custom GPT, instructions"]


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer hunter2"}], ids=["alone", "and by the key"])
def test_by_the_secret_url_it_has_that_and_never_the_key(start, header):
    daemon = start("me:hunter2")
    token = token_of(daemon)
    for path in ("/" + token, "/%s/" % token, "/%%%02x%s/" % (ord(token[0]), token[1:])):
        body = daemon.request("GET", path, headers=header).body
        shown, url = told(body), local(daemon, "/" + token)
        assert shown["ChatGPT, Claude.ai"] == url + "/mcp" and shown["custom GPT, schema"] == url + "/openapi.json"
        assert json.loads(shown["Cursor, VS Code"]) == {"type": "http", "url": url + "/mcp"}
        assert shown["Claude Code"].endswith(" " + url + "/mcp")
        assert b"Authorization" not in body and b"hunter2" not in body and base64.b64encode(b"me:hunter2") not in body


def test_neither_key_nor_token_is_logged(start):
    daemon = start("me:secret")
    for path in ("/", "/" + token_of(daemon)):
        assert daemon.request("GET", path, headers={"Authorization": BASIC}).status == 200
    wait_for(lambda: daemon.errors().count(" GET / ") == 2, what="a line for each")
    assert not [secret for secret in ("secret", BASIC[6:], token_of(daemon)) if secret in daemon.errors()]


def test_a_hostile_directory_stays_text(start, tmp_path):
    daemon = start("noauth", directory=tmp_path / HOSTILE)
    body = daemon.request("GET", "/").body
    assert told(body)["Directory"] == program.visible(str(daemon.directory))[0]
    assert b"<img" not in body and b"{{mode}}" in body


def test_all_values_are_escaped_and_filled_in_once():
    names = set(re.findall(r"\{\{(\w+)\}\}", program.PAGE)) - {"pastes"}
    nasty = "</script><b a='\"'>&amp;{{%s}}\\1\\g<0>"
    page, _ = program.fill_page({name: nasty % name for name in names}, [(nasty % "host", nasty % "pastes")])
    text = page.decode()
    assert text.count("</script>") == 1 and "<b " not in text
    for name in names:
        assert html.escape(nasty % name) in text
    assert told(page)[nasty % "host"] == nasty % "pastes"


# In a browser

SWITCHES = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --host-resolver-rules=MAP[]name.example[]127.0.0.1""".split()
AXE = "axe-core@4.14.1"


@pytest.fixture(scope="module")
def chromium():
    """Debian's browser, headless."""
    path = shutil.which("chromium")
    assert path, "the tests of the page need a browser: apt-get install chromium"
    with sync_playwright() as playwright:
        switches = [one.replace("[]", " ") for one in SWITCHES]
        running = playwright.chromium.launch(executable_path=path, args=switches)
        yield running
        running.close()


@pytest.fixture
def visit(chromium):
    """A function that opens a URL in a profile of its own; at the end nothing was blocked, or asked of anybody else."""
    pages = []

    def visit_one(url, **options):
        page = chromium.new_context(**options).new_page()
        page.heard, page.asked = [], []
        page.on("console", lambda message: page.heard.append(message.text))
        page.on("pageerror", lambda error: page.heard.append("error: %s" % error))
        page.on("dialog", lambda dialog: (page.heard.append("error: a dialog"), dialog.dismiss()))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(url)
        pages.append(page)
        return page

    yield visit_one
    for page in pages:
        heard = [line for line in page.heard if not line.startswith("Failed to load resource")]
        origin = page.evaluate("location.origin")
        strangers = [url for url in page.asked if not re.match(r"https?://(\S+@)?%s[/]|blob:|data:" % origin[7:], url)]
        page.context.close()
        assert heard == [] and strangers == []


def run(page, command):
    page.get_by_role("textbox", name="Command").fill(command)
    page.get_by_role("button", name="Run").click()


def says(page, form, text):
    """Waits until a form says of its action what text, a regular expression, matches."""
    page.locator("#%s output" % form, has_text=re.compile(text)).wait_for()


def shows(page, text):
    """Waits until this, and nothing else, is the output of a command."""
    page.wait_for_function("text => shown.textContent == text", arg=text)


def answer(daemon, what, text):
    """Answers the question at the terminal that shows what."""
    daemon.expect(what)
    daemon.expect("n REASON")
    daemon.expect(": ")
    daemon.type(text + "\n")


@browser
def test_a_newcomers_path(start, visit, tmp_path):
    """The file alone in an empty directory, and all that a person does first; at the terminal, as in the browser."""
    empty = tmp_path / "empty"
    empty.mkdir()
    daemon = start("noauth", program=shutil.copy(str(PROGRAM), str(empty)), directory=empty, tty=True)
    page = visit(re.search(r"Starting server at (\S+)", daemon.output()).group(1))
    page.get_by_role("heading", level=1, name="MyCodeInterpreter").wait_for()
    page.get_by_text("Safe: ").wait_for()
    run(page, "echo out; echo err >&2; exit 3")
    says(page, "run", r"^The operator is being asked at the terminal.$")
    answer(daemon, "echo out; echo err >&2; exit 3", "y")
    says(page, "run", r"^Exit code 3, [0-9.]+ s\.$")
    shows(page, "out\nerr\n[exit code 3]\n")

    (tmp_path / "mine \u20ac.txt").write_text("from the browser", encoding="utf-8")
    page.get_by_label("Files to store").set_input_files(str(tmp_path / "mine \u20ac.txt"))
    says(page, "store", r"^The operator is being asked at the terminal.$")
    answer(daemon, "mine \u20ac.txt", "y")
    says(page, "store", "stored mine \u20ac.txt, 16 bytes")
    assert (empty / "mine \u20ac.txt").read_text(encoding="utf-8") == "from the browser"

    page.get_by_label("Path of a file").fill("./mine \u20ac.txt")
    with page.expect_download() as fetched:
        page.get_by_role("button", name="Fetch").click()
        answer(daemon, "mine \u20ac.txt", "y")
    assert fetched.value.suggested_filename == "mine \u20ac.txt"
    assert pathlib.Path(fetched.value.path()).read_text(encoding="utf-8") == "from the browser"

    run(page, "rm -rf everything")
    answer(daemon, "rm -rf everything", "n not before noon")
    says(page, "run", r"^denied by the operator: not before noon$")
    shows(page, "")
    daemon.type("\x03")
    wait_for(lambda: daemon.process.poll() is not None, what="the end by Ctrl+C")
    assert daemon.process.returncode == 0
    run(page, "echo anybody")
    says(page, "run", r"^The daemon does not answer; it may have been stopped.$")


@browser
@pytest.mark.timeout(600)  # with the installation
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(start, visit, scheme):
    def install(folder):
        npm = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error", AXE]
        subprocess.run(npm, check=True, timeout=100)

    source = installed(".venv-axe", install) / "node_modules" / "axe-core" / "axe.min.js"
    daemon = start("me:secret", tty=True)
    page = visit(local(daemon), http_credentials={"username": "me", "password": "secret"}, color_scheme=scheme)
    page.evaluate(source.read_text(encoding="utf-8"))

    def check(width):
        page.set_viewport_size({"width": width, "height": 800})
        found = page.evaluate("axe.run({resultTypes: ['violations', 'incomplete']})")
        assert len(found["passes"]) > 30
        faults = found["violations"] + found["incomplete"]
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in faults] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
        sizes = [control.bounding_box() for control in page.locator("button:visible, input, textarea").all()]
        assert [box for box in sizes if box["height"] < 44 or box["width"] < 44] == []

    run(page, "seq 100")
    page.locator("#run output.wait").wait_for()
    check(1100)
    answer(daemon, "seq 100", "y")
    says(page, "run", "Exit code 0")
    check(390)
    run(page, "x" * 200)
    answer(daemon, "xxx", "n " + "because " * 20)
    page.locator("#run output.bad").wait_for()
    for width in (1100, 320):
        check(width)


@browser
def test_it_works_by_the_keyboard_alone(nosafe, visit):
    page = visit(local(nosafe))
    keys, focused = page.keyboard, "document.activeElement.%s"

    def type_over(text):
        keys.press("ControlOrMeta+a")
        keys.type(text)

    keys.press("Tab")
    assert page.evaluate(focused % "id") == "cmd"
    keys.type("echo one")
    keys.press("Shift+Enter")
    keys.type("echo two")
    assert page.evaluate("shown.textContent") == ""
    keys.press("Enter")
    shows(page, "one\ntwo\n")
    for number in ("3", "4"):
        type_over("exit " + number)
        keys.press("Enter")
        says(page, "run", "Exit code " + number)
    type_over("draft")
    field = page.get_by_role("textbox", name="Command")
    for key, text in (("Up", "exit 4"), ("Up", "exit 3"), ("Down", "exit 4"), ("Down", "exit 4"), ("Up", "exit 3")):
        keys.press("Arrow" + key)
        assert field.input_value() == text
    keys.press("Tab")
    assert page.evaluate(focused % "textContent") == "Run"
    keys.press("Enter")
    says(page, "run", "Exit code 3")
    for focus in ("shown", "files"):  # the output has the focus, so that it can be scrolled
        keys.press("Tab")
        assert page.evaluate(focused % "id") == focus
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@browser
def test_a_cancelled_action_withdraws_its_question(start, visit):
    daemon = start("noauth", tty=True)
    page = visit(local(daemon))
    for form, begin in (("run", lambda: run(page, "touch ran")), ("fetch", lambda: fetch(page, "x"))):
        begin()
        daemon.expect("n REASON")
        cancel = page.locator("#%s .cancel" % form)
        cancel.focus()
        page.keyboard.press("Enter")
        says(page, form, "Cancelled.")
        assert cancel.is_disabled()
        assert page.evaluate("document.activeElement.id") in ("cmd", "path"), "the focus is not lost"
        daemon.expect("withdrawn: the client hung up")
    assert not (daemon.directory / "ran").exists()


def fetch(page, path):
    page.get_by_label("Path of a file").fill(path)
    page.get_by_role("button", name="Fetch").click()


@browser
def test_a_command_that_runs_on_shows_its_log(start, visit):
    daemon = start("noauth", "-nosafe", "-wait", "0.5")
    page = visit(local(daemon))
    run(page, "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo done")
    says(page, "run", r"^Still running, [0-9.]+ s\.$")
    assert "its output goes on in /" in page.evaluate("shown.textContent")
    (daemon.directory / "go").touch()

    def log():
        page.get_by_role("button", name="End of its log").click()
        says(page, "run", "The end of /")
        return page.evaluate("shown.textContent")

    wait_for(lambda: log() == "begun\ndone\n")
    run(page, "seq 100000")
    says(page, "run", "Exit code 0")
    assert "bytes left out" in page.evaluate("shown.textContent")
    assert log() == "".join("%d\n" % number for number in range(1, 100001))[-65536:]
    run(page, "true")
    says(page, "run", "Exit code 0")
    assert page.get_by_role("button", name="End of its log").is_hidden()


@browser
def test_files_that_are_dropped_are_stored(nosafe, visit, tmp_path):
    page, paths = visit(local(nosafe)), [tmp_path / "dropped-1", tmp_path / "dropped-2"]
    for path in paths:
        path.write_bytes(b"x" * 3000000)
    page.evaluate("sent.seen = 0; new MutationObserver(() => sent.seen++).observe(sent, {attributes: true})")
    session = page.context.new_cdp_session(page)
    field = page.get_by_label("Files to store")
    field.scroll_into_view_if_needed()
    box, data = field.bounding_box(), {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        session.send("Input.dispatchDragEvent", dict(where, type=kind, data=data))
    says(page, "store", r"^stored dropped-1, 3000000 bytes\nstored dropped-2, 3000000 bytes\n$")
    assert page.evaluate("sent.value") == 1 and page.evaluate("sent.seen") > 1
    assert [(nosafe.directory / path.name).stat().st_size for path in paths] == [3000000] * 2


DROP = """target => {
    const dataTransfer = new DataTransfer()
    dataTransfer.items.add(new File(["x"], "name"))
    return target.dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer}))
}"""


@browser
def test_a_file_that_is_dropped_beside_the_field_does_not_replace_the_page(nosafe, visit):
    page = visit(local(nosafe))
    assert page.get_by_role("heading", name="Move files").evaluate(DROP) is False
    assert page.get_by_label("Files to store").evaluate(DROP) is True, "there the browser does what it does"


@browser
def test_an_upload_that_is_denied_or_cancelled_stores_nothing(start, visit, tmp_path):
    daemon = start("noauth", tty=True)
    page = visit(local(daemon))
    (tmp_path / "large").write_bytes(b"x" * 8000000)
    page.get_by_label("Files to store").set_input_files(str(tmp_path / "large"))
    answer(daemon, "/large", "n too large")
    says(page, "store", r"^denied by the operator: too large$")
    (tmp_path / "small").write_bytes(b"x")
    page.get_by_label("Files to store").set_input_files(str(tmp_path / "small"))
    daemon.expect("n REASON")
    page.locator("#store .cancel").click()
    says(page, "store", "Cancelled.")
    daemon.expect("withdrawn: the client hung up")
    assert list(daemon.directory.iterdir()) == []
    page.get_by_role("button", name="Store", exact=True).click()
    answer(daemon, "/small", "y")
    says(page, "store", "stored small, 1 bytes")


@browser
def test_errors_are_shown_in_their_own_words(nosafe, visit):
    page = visit(local(nosafe))
    fetch(page, "missing/file")
    says(page, "fetch", "missing/file: No such file")
    fetch(page, "/")
    says(page, "fetch", "is not a regular file")
    run(page, "x" * 200000)
    says(page, "run", "longer than the system takes")
    page.get_by_role("button", name="Store", exact=True).click()
    says(page, "store", r"^$")  # the browser itself asks for a file


@browser
@pytest.mark.parametrize("way", ["TOKEN", "TOKEN/", "in the URL", "asked"])
def test_it_works_by_every_way_in(start, visit, way, tmp_path):
    daemon = start("me:secret", "-nosafe")
    (daemon.directory / "there").write_text("x")
    (tmp_path / "sent").write_text("y")
    if way.startswith("TOKEN"):
        page = visit(local(daemon, "/" + way.replace("TOKEN", token_of(daemon))))
    elif way == "asked":
        page = visit(local(daemon), http_credentials={"username": "me", "password": "secret"})
    else:
        page = visit(local(daemon).replace("//", "//me:secret@"))
    run(page, "echo in")
    shows(page, "in\n")
    page.get_by_label("Files to store").set_input_files(str(tmp_path / "sent"))
    says(page, "store", "stored sent")
    fetch(page, "there")
    says(page, "fetch", r"^Fetched there, 1 bytes.$")


@browser
@pytest.mark.parametrize("host", ["127.0.0.1", "name.example"], ids=["a secure context", "none"])
def test_what_is_copied_is_what_is_to_be_pasted(start, visit, host):
    daemon = start("me:secret", "-nosafe", "-url", "http://name.example")
    options = {"http_credentials": {"username": "me", "password": "secret"}}
    page = visit("http://%s:%d/" % (host, daemon.port), **options)
    assert page.evaluate("isSecureContext") == (host == "127.0.0.1")
    field = page.get_by_role("textbox", name="Command")
    pastes = told(daemon.request("GET", "/", headers={"Authorization": BASIC}).body)
    for name in ("Cursor, VS Code", "custom GPT, instructions"):
        page.get_by_role("button", name="Copy " + name, exact=True).click()
        page.get_by_role("status").filter(has_text="Copied " + name).wait_for()
        field.fill("")
        field.press("ControlOrMeta+v")
        assert wait_for(field.input_value) == pastes[name]


@browser
def test_a_hostile_directory_runs_nothing_in_the_browser(start, visit, tmp_path):
    daemon = start("noauth", "-nosafe", directory=tmp_path / HOSTILE)
    page = visit(local(daemon))
    assert page.locator("img").count() == 0
    run(page, "printf '<img src=x onerror=alert(1)>'")
    shows(page, "<img src=x onerror=alert(1)>")
    fetch(page, "<img src=x onerror=alert(1)>")
    says(page, "fetch", "<img src=x onerror=alert.1.>")
    assert page.locator("img").count() == 0
