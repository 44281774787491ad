"""A board as a user sees it: the page in a real browser.

Needs Debian's chromium. HKRUNNER_SCREENSHOT=FILE keeps the picture of the docs.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from hkrunner.boards.manager import BoardManager
from hkrunner.boards.records import Readiness
from hkrunner.boards.series import ResourceSeries
from hkrunner.boards.store import Store, TaskIds
from hkrunner.boards.targets import batch_target
from PIL import Image
from playwright.sync_api import Error, Locator, Page, sync_playwright
from support.boards import BOARD_DEADLINE_S
from support.waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
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
RATES = {"t1": 0.02, "t2": 0.2, "t3": 2.0}
JOB, NODE, PIPELINE = "20261123-180509-a1b2", "train", "local"


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
def manager(tmp_path: Path) -> Iterator[BoardManager]:
    manager = BoardManager(tmp_path / "state", attached=True)
    yield manager
    manager.stop_all()
    manager.close()
    manager.wait_for_end()


def train(root: Path, task: str) -> None:
    """Run the example as a task, with resource curves as the runner writes them."""
    store = Store(root)
    began = time.time()
    record = store.open(TaskIds(task, JOB, NODE, PIPELINE), entry="train.py", started_at=began)
    with environment(record.environment):
        result = example().start({"input": [RATES[task]]})
    series = ResourceSeries(record.metrics_dir, started_at=began)
    for second in range(30):
        series.sample(
            began + second,
            cpu_cores=0.8 + 0.1 * (second % 3),
            memory_bytes=(90 + second) << 20,
            limit_bytes=256 << 20,
            processes=1,
        )
        series.progress(began + second, second / 29)
    series.close()
    record.finish({"status": "succeed", "result": result})
    store.close()


def example() -> Any:
    sys.path.insert(0, str(EXAMPLES))
    try:
        import train
    finally:
        sys.path.remove(str(EXAMPLES))
    return train


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


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


def open_page(page: Page, url: str) -> None:
    page.goto(f"{url}?darkMode=false#timeseries", wait_until="domcontentloaded")


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


def test_three_runs_of_the_example_are_compared_in_the_browser(manager: BoardManager, page: Page) -> None:
    for task in ("t1", "t2"):
        train(manager.root, task)
    target = batch_target(manager.root, JOB, NODE)
    manager.start(target)
    url = manager.wait(target.id, Readiness.READY, deadline_s=BOARD_DEADLINE_S).url
    assert url is not None
    open_page(page, url)
    wait_until(lambda: legend(page) == names("t1", "t2"), deadline_s=60, what="the names of two runs")

    # A third run appears without a restart: the page asks again when its user presses reload.
    train(manager.root, "t3")

    def reloaded() -> bool:
        page.locator("button.reload-button").click()
        return legend(page) == names("t1", "t2", "t3")

    wait_until(reloaded, deadline_s=60, what="the name of the third run")
    page.locator("button.settings-button, metrics-main-view button", has_text="Settings").first.click()
    keep_screenshot(page)

    for tag, curves in (("loss/validation", 3), ("accuracy/validation", 3), ("~resources/memory_mib", 1)):
        shown = chart(page, tag)
        wait_until(
            lambda shown=shown, curves=curves: curve_pixels(shown) > 300 * curves,
            deadline_s=60,
            what=f"{curves} curves of {tag}",
        )

    # What is counted are the curves: with all runs unchecked nothing of a strong colour is left.
    page.locator("runs-data-table input[type=checkbox]").first.click()
    wait_until(lambda: 0 <= curve_pixels(shown) < 100, deadline_s=60, what="an empty chart")


def names(*tasks: str) -> set[str]:
    return {*tasks, *(f"{task}/resources" for task in tasks)}


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
