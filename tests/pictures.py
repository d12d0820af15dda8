"""Makes docs/page.png and docs/terminal.png from a real session of the real program: `make pictures`.

Needs chromium and unshare.

The daemon runs on a machine that is called workshop, in /srv/project, so that the picture tells nothing of this one.
"""

import io
import pathlib
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from conftest import ROOT, Daemon, wait_for
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

SALES = "town,month,sold\nLeiden,May,31\nTurku,May,17\nLeiden,June,26\nTurku,June,44\nPorto,June,12\n"
COMMAND = "awk -F, 'NR > 1 { sold[$1] += $3 } END { for (town in sold) print town, sold[town] }' sales.csv | sort"


PYTHON = """#!/bin/sh
exec unshare --map-root-user --mount --uts sh -c 'hostname workshop; mount --bind "$0" /srv
    cd /srv/project; exec python3 "$@"' '%s' "$@"
"""


def elsewhere(folder):
    """A directory to work in, and in the place of Python a script that shows it under its other name."""
    directory, script = folder / "project", folder / "python"
    directory.mkdir()
    (directory / "sales.csv").write_text(SALES)
    script.write_text(PYTHON % folder)
    script.chmod(0o755)
    return directory, str(script)


def picture_page(page, daemon):
    """The page when a command has run."""
    page.goto("http://127.0.0.1:%d/" % daemon.port)
    page.get_by_role("textbox", name="Command").fill(COMMAND)
    page.get_by_role("button", name="Run").click()
    daemon.expect("n REASON")
    daemon.expect(": ")
    daemon.type("y\n")
    page.locator("#run output", has_text="Exit code 0").wait_for()
    page.screenshot(path=str(ROOT / "docs" / "page.png"))


def picture_terminal(page, daemon):
    """The terminal of a daemon that has been asked for two actions and ended."""
    with ThreadPoolExecutor() as pool:
        for method, target, answer in (
            ("POST", "/execcmd?cmd=" + quote("rm -rf build"), "n build is wanted, remove build/tmp\n"),
            ("POST", "/execcmd?cmd=" + quote("printf '\x1b[2Kecho harmless'; rm notes"), "n\n"),
            ("GET", "/get-file?filename=sales.csv", "y\n"),
        ):
            pool.submit(daemon.request, method, target, b"" if method == "POST" else None)
            daemon.expect("n REASON")
            daemon.expect(": ")
            daemon.type(answer)
            wait_for(lambda: re.search(r"(200|403)\s+[0-9]+B\s", daemon.errors()), what="the log's line")
    daemon.type("\x03")
    daemon.stop()
    shown = "$ python3 mycodeinterpreter.py noauth\n%s%s" % (daemon.output(), daemon.history.replace("\r\n", "\n"))
    console = Console(record=True, width=96, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(shown.replace("\a", "").replace("^C", "")))
    style = "<style>text, .fira-code { font-family: monospace !important }</style>"
    page.set_content(style + console.export_svg(title="python3 mycodeinterpreter.py"))
    page.locator("svg").screenshot(path=str(ROOT / "docs" / "terminal.png"))


def main():
    """Writes the pictures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        directory, python = elsewhere(pathlib.Path(folder))
        switches = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=switches)
        daemon = Daemon(["noauth"], directory, tty=True, python=python, env={"NO_COLOR": ""}, columns=96).ready()
        page = browser.new_page(viewport={"width": 960, "height": 1190}, color_scheme="light")
        picture_page(page, daemon)
        picture_terminal(browser.new_page(viewport={"width": 1200, "height": 900}), daemon)
        browser.close()
        daemon.close()


if __name__ == "__main__":
    main()
