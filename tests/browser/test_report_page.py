"""A report as a reader sees it: nothing is fetched and no script runs, on the screen, in the dark, on paper.

Needs Debian's chromium.
"""

from __future__ import annotations

from pathlib import Path

from hkrunner.boards.report.page import document
from hkrunner.boards.report.reported_task import ReportedTask
from hkrunner.boards.runs.event_files import Point
from hkrunner.boards.runs.history import Curve
from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]
HOSTILE = (
    "</td><script>document.title = 'run'</script><img src=http://127.0.0.1:9/x onerror=\"document.title=1\">"
)


def test_a_report_fetches_nothing_runs_nothing_and_can_be_read_everywhere(tmp_path: Path) -> None:
    curve = Curve(".", "loss", tuple(Point(float(at), at, 1 / (1 + at)) for at in range(50)))
    task = ReportedTask("t1 lr=0.5", "failed", inputs={"text": HOSTILE}, error=HOSTILE, curves=[curve])
    file = tmp_path / "report.html"
    # A policy keeps scripts from running even where a text was not escaped.
    page = document([task], made_s=0).replace("</body>", "<script>document.title = 'run'</script></body>")
    file.write_text(page, "utf-8")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser,
    ):
        view = browser.new_page(viewport={"width": 500, "height": 800})
        fetched: list[str] = []
        view.on("request", lambda request: fetched.append(request.url))
        view.goto(file.as_uri())
        assert fetched == [file.as_uri()]
        assert view.title() == "1 task of hkrunner"
        assert view.locator("pre.error").inner_text() == HOSTILE
        line = view.locator("figure > svg path.line").bounding_box()
        assert line is not None and line["width"] > 200 and line["height"] > 50
        # A wide table scrolls by itself; the page does not.
        assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
        colors = {}
        for name, media, scheme in (
            ("light", "screen", "light"),
            ("dark", "screen", "dark"),
            ("paper", "print", "dark"),
        ):
            view.emulate_media(media=media, color_scheme=scheme)  # type: ignore[arg-type]
            colors[name] = view.evaluate("getComputedStyle(document.querySelector('.page')).backgroundColor")
        assert colors == {
            "light": "rgb(255, 255, 255)",
            "dark": "rgb(13, 17, 23)",
            "paper": "rgb(255, 255, 255)",
        }
