"""A board as a user sees it: the page in a real browser.

Needs Debian's chromium. HKRUNNER_SCREENSHOT=FILE keeps the picture of the docs.
"""

from __future__ import annotations

import io
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
from PIL import Image
from playwright.sync_api import Error, Locator, Page, sync_playwright
from support.boards import BOARD_DEADLINE_S, boards_of, runs_of
from support.local import ALGORITHMS
from support.programs import run_hkrunner, serving
from support.waiting import wait_until

WAITS = ALGORITHMS / "trains_until_the_gate_opens.py"
EXAMPLE = Path(__file__).parents[2] / "examples" / "train.py"
CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAGE_DEADLINE_MS = 60_000
RATES = (0.02, 0.2, 2.0)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=CHROMIUM,
            args=FLAGS,
            viewport={"width": 1280, "height": 1120},
        )
        context.set_default_timeout(PAGE_DEADLINE_MS)
        yield context.pages[0]
        context.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the runs are; no board of it runs afterwards."""
    with boards_of(tmp_path / ".hkrunner"):
        yield tmp_path


def train(folder: Path, *rates: float) -> str:
    """Run the example with a board, as the README does; return the board's address."""
    inputs = [word for rate in rates for word in ("-i", json.dumps({"lr": rate}))]
    ended = run_hkrunner("--entry", EXAMPLE, *inputs, "--board", cwd=folder, deadline_s=BOARD_DEADLINE_S)
    assert ended.status == 0, ended
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("● board local:train")]
    return line.split()[-1]


def curve_pixels(chart: Locator) -> int:
    """How many pixels of the picture have a strong colour: curves have, axes and grid have not.

    -1 when the page was just putting another chart in its place.
    """
    try:
        png = chart.screenshot()
    except Error:
        return -1
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    channels = numpy.asarray(picture).astype(int)
    return int(((channels.max(axis=2) - channels.min(axis=2)) > 40).sum())


def open_page(page: Page, url: str, tab: str = "timeseries") -> None:
    page.goto("about:blank")  # an address with another tab alone would not load the page again
    page.goto(f"{url}?darkMode=false#{tab}", wait_until="domcontentloaded")


def legend(page: Page) -> set[str]:
    """The names of the runs that the page lists."""
    return set(page.locator("runs-data-table tb-data-table-content-cell.table-column-run").all_inner_texts())


def chart(page: Page, tag: str) -> Locator:
    """The chart of the only card with this tag."""
    page.locator("input[placeholder='Filter tags (regex)']").fill(tag)
    page.keyboard.press("Escape")  # the list of suggestions would lie over the card
    charts = page.locator("card-view line-chart").filter(visible=True)
    wait_until(lambda: charts.count() == 1, deadline_s=60, what=f"one card for {tag}")
    return charts


def test_runs_of_the_example_are_compared_in_the_browser(folder: Path, page: Page) -> None:
    url = train(folder, *RATES)
    runs = {"t1 lr=0.02", "t2 lr=0.2", "t3 lr=2"}
    wait_until(lambda: set(runs_of(url)) == runs, deadline_s=60, what="three runs")
    open_page(page, url)
    wait_until(lambda: legend(page) == runs, deadline_s=60, what="the names of three runs")
    keep_screenshot(page)
    for tag, curves in (("loss/train", 3), ("loss/validation", 3), ("accuracy/validation", 3)):
        shown = chart(page, tag)
        wait_until(
            lambda shown=shown, curves=curves: curve_pixels(shown) > 300 * curves,
            deadline_s=60,
            what=f"{curves} curves of {tag}",
        )
    # hkrunner's own groups come after those of the algorithm, and are folded.
    for tag in ("cpu_cores", "memory_mib"):
        resource = chart(page, f"~resources/{tag}")
        # A task of a moment has few points.
        wait_until(lambda resource=resource: curve_pixels(resource) > 20, deadline_s=60, what=tag)

    # A further run, of another job, appears by itself: neither a restart nor a click.
    assert train(folder, 20.0) == url
    runs.add("t4 lr=20")
    wait_until(lambda: legend(page) == runs, deadline_s=70, what="the name of the further run")

    # What was counted are the curves: with all runs unchecked nothing of a strong colour is left.
    shown = chart(page, "loss/validation")
    wait_until(lambda: curve_pixels(shown) > 900, deadline_s=60, what="the curves")
    page.locator("runs-data-table input[type=checkbox]").first.click()
    wait_until(lambda: 0 <= curve_pixels(shown) < 100, deadline_s=60, what="an empty chart")


def test_tasks_are_compared_by_input_and_outcome_while_they_run_and_after_they_failed(
    folder: Path, page: Page
) -> None:
    url = train_two_rates(folder)
    # Without TensorBoard's own reload, which comes twice a minute: it is the board that keeps the page live.
    page.add_init_script("localStorage._tb_global_settings ??= JSON.stringify({autoReload: false})")
    # Inputs and outcomes. The tab reads them once, and its plots show tasks that have all of the inputs.
    wait_until(lambda: count_rows(url, "SUCCESS") == 2, deadline_s=60, what="two outcomes")
    open_page(page, url, "hparams")
    table = page.locator("tf-hparams-table-view vaadin-grid")
    wait_until(
        lambda: table.count() == 1 and "t2 rate=0.25" in table.inner_text(), deadline_s=60, what="the table"
    )
    columns, first, second = table.inner_text().split("\nt")
    # Resources are no columns: their last values say nothing.
    assert columns.splitlines()[2:5] == ["rate", "score", "~output/loss"]
    assert first.splitlines()[:4] == ["1 rate=0.5", "0.50000", "4.5000", "0.25000"]
    assert second.splitlines()[:4] == ["2 rate=0.25", "0.25000", "2.2500", "0.062500"]
    for view, marks, expected in (
        ("parallel coordinates view", "tf-hparams-parallel-coords-plot g.foreground path", 2),
        ("scatter plot matrix view", "tf-hparams-scatter-plot-matrix-plot circle", 2),
    ):
        page.locator("paper-tab, [role=tab]", has_text=re.compile(view, re.IGNORECASE)).first.click()
        drawn = page.locator(marks)
        wait_until(
            lambda drawn=drawn, expected=expected: drawn.count() >= expected,
            deadline_s=60,
            what=f"the {view}",
        )

    open_page(page, url)
    good = {"t1 rate=0.5", "t2 rate=0.25"}
    wait_until(lambda: legend(page) == good, deadline_s=60, what="two names")
    # The algorithm has one group of its own; TensorBoard opens two, and the script folds hkrunner's.
    wait_until(
        lambda: groups(page) == {"score": True, "~output": False, "~resources": False, "~task": False},
        deadline_s=60,
        what="the groups of cards",
    )
    gate = folder / "gate"
    value = json.dumps({"rate": -1, "gate": str(gate)})
    with serving("--entry", WAITS, "-i", value, "--mem", "512Mi", cwd=folder) as program:
        wait_until(lambda: len(legend(page)) == 3, deadline_s=60, what="the name of the running task")
        (live,) = legend(page) - good
        assert live.startswith("t3 rate=-1")
        wait_until(lambda: count_rows(url, "RUNNING") == 1, deadline_s=60, what="the row of the running task")
        gate.touch()
        assert program.wait() == 1
    wait_until(lambda: legend(page) == good | {f"{live} ✘"}, deadline_s=60, what="the mark")
    statuses = ("RUNNING", "SUCCESS", "FAILURE")
    wait_until(
        lambda: [count_rows(url, status) for status in statuses] == [0, 2, 1], deadline_s=60, what="its row"
    )

    # Why it failed.
    open_page(page, url, "text")
    error = page.get_by_text("ValueError: the rate is negative").first
    wait_until(error.is_visible, deadline_s=60, what="the error")

    # Its memory and the limit are two lines of one chart.
    open_page(page, url, "custom_scalars")
    lines = page.locator("tf-custom-scalar-multi-line-chart-card")
    wait_until(lambda: curve_pixels(lines.first) > 20, deadline_s=60, what="the chart with the limit")


def groups(page: Page) -> dict[str, bool]:
    """The groups of cards, and whether each is open."""
    found = {}
    for group in page.locator("metrics-card-group-toolbar button").all():
        name = group.locator(".group-title").inner_text()
        found[name] = group.locator("[svgicon^=expand_less]").count() == 1
    return found


def count_rows(url: str, status: str) -> int:
    """How many rows the HParams tab has for tasks with the status."""
    asked = {"allowedStatuses": [f"STATUS_{status}"], "startIndex": 0, "sliceSize": 100}
    body = json.dumps(asked).encode()
    request = urllib.request.Request(
        f"{url}data/plugin/hparams/session_groups", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return len(json.load(answer)["sessionGroups"])
    except urllib.error.HTTPError:  # 400 while no run has hyperparameters
        return 0


def train_two_rates(folder: Path) -> str:
    """Run two tasks with a board; return its address."""
    inputs = [word for rate in (0.5, 0.25) for word in ("-i", json.dumps({"rate": rate}))]
    ended = run_hkrunner("--entry", WAITS, *inputs, "--board", cwd=folder, deadline_s=BOARD_DEADLINE_S)
    assert ended.status == 0, ended
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("● board ")]
    return line.split()[-1]


def keep_screenshot(page: Page) -> None:
    if place := os.environ.get("HKRUNNER_SCREENSHOT"):
        charts = page.locator("line-chart")
        wait_until(lambda: charts.count() >= 3, deadline_s=60, what="three charts")
        for number in range(3):
            wait_until(
                lambda number=number: curve_pixels(charts.nth(number)) > 1000,
                deadline_s=60,
                what=f"curves in chart {number + 1}",
            )
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        page.evaluate("document.querySelectorAll('*').forEach(element => element.scrollTop = 0)")
        page.screenshot(path=place)
