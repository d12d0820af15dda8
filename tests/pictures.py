"""Makes docs/page.png from a real session of the real program: `make pictures`. Needs chromium and unshare.

The daemon runs on a machine that is called workshop, in /srv/project, so that the picture tells nothing of this one.
"""

import pathlib
import shutil
import tempfile

from conftest import ROOT, Daemon
from playwright.sync_api import sync_playwright

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


def main():
    """Writes the pictures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        directory, python = elsewhere(pathlib.Path(folder))
        switches = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=switches)
        daemon = Daemon(["noauth", "-port", "0"], directory, tty=True, python=python).ready()
        page = browser.new_page(viewport={"width": 960, "height": 1190}, color_scheme="light")
        picture_page(page, daemon)
        browser.close()
        daemon.close()


if __name__ == "__main__":
    main()
