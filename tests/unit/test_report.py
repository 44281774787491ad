"""The page of a report: no text in it becomes HTML, and every curve can be drawn."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hkrunner.boards.report.charts import ChartLine, Points, chart
from hkrunner.boards.report.escaping import text
from hkrunner.boards.report.page import document, fragment
from hkrunner.boards.report.reported_task import LogTail, ReportedTask, tail_of
from hkrunner.boards.runs.event_files import Point
from hkrunner.boards.runs.history import Curve
from hkrunner.runner.python_api.results import TaskResult, TaskResults
from hypothesis import given
from hypothesis import strategies as st

#: Closes every kind of element, attribute and comment that the page has; and characters that mislead.
HOSTILE = (
    "\"'><!--</title></style></pre></svg><script>alert(1)</script><img src=http://x onerror=y>"
    "\x00\u202e\ud800"
)
VOID = {"meta"}


class Tags(HTMLParser):
    """The elements of a page, which must be closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.shown = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown += data


def hostile_task() -> ReportedTask:
    points = (Point(1.0, 0, 0.5), Point(2.0, 1, math.nan), Point(3.0, 2, 0.25))
    return ReportedTask(
        run=HOSTILE,
        status=HOSTILE,
        reason=HOSTILE,
        entry=HOSTILE,
        place=HOSTILE,
        limits=HOSTILE,
        error=HOSTILE,
        details=HOSTILE,
        started_s=1.0,
        inputs={HOSTILE: HOSTILE, "lr": 0.02},
        output={HOSTILE: HOSTILE, "name": HOSTILE},
        metrics={HOSTILE: 0.25},
        curves=[Curve(".", HOSTILE, points), Curve(HOSTILE, "loss", points)],
        logs={"stdout": LogTail(HOSTILE, is_cut=True)},
    )


def test_texts_of_others_stay_texts() -> None:
    for page in (
        document([hostile_task(), ReportedTask("t2", "succeed")], made_s=0),
        fragment([hostile_task()]),
    ):
        tags = Tags(page)
        assert tags.found.isdisjoint({"script", "img", "iframe", "link", "a", "object", "form"})
        assert not {name for name in tags.attributes if name.startswith("on")} | tags.attributes & {
            "src",
            "href",
        }
        assert "url(" not in page and "@import" not in page
        page.encode()  # no lone surrogate
        assert not re.search("[\x00\u202e]", page)
        assert "<script>alert(1)</script>" in tags.shown


@given(st.text(max_size=60))
def test_any_text_is_shown_as_itself(given: str) -> None:
    tags = Tags(f'<div class="{text(given)}">{text(given)}</div>')
    kept = "".join(one if one.isprintable() or one in "\n\t\u200c\u200d" else "\ufffd" for one in given)
    assert (tags.found, tags.shown) == ({"div"}, kept)


NUMBERS = st.floats(width=64) | st.sampled_from([0.0, 5e-324, 1e-310, 1.7e308, -1.7e308, 1.0, 1.0 + 2**-52])


@given(
    st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8), max_size=3), st.none() | NUMBERS
)
def test_any_curve_is_drawn_inside_its_chart(lines: list[Points], limit: float | None) -> None:
    shown = limit if limit is not None and math.isfinite(limit) else None
    svg = chart("loss", [ChartLine(str(at), at, points) for at, points in enumerate(lines)], limit=shown)
    element = ElementTree.fromstring(svg)
    places = [
        float(one) for path in element.iter("path") for one in re.findall(r"-?[\d.]+", path.get("d", ""))
    ]
    places += [float(circle.get(name, "nan")) for circle in element.iter("circle") for name in ("cx", "cy")]
    assert all(0 <= place <= 480 for place in places)
    has_points = any(all(map(math.isfinite, point)) for points in lines for point in points)
    assert (element.tag == "svg") is has_points


def test_a_curve_has_gaps_and_keeps_its_peaks_when_it_is_thinned() -> None:
    values = [math.sin(at / 50) for at in range(100_000)]
    values[77_777] = 9.0
    values[50_000] = math.nan
    svg = chart("loss", [ChartLine("t1", 0, list(enumerate(values)))])
    (path,) = re.findall(r'<path class="line c0 d0" d="([^"]+)"', svg)
    assert path.count("M") == 2 and len(path) < 15_000
    assert " 12L" in path, "the peak is at the upper edge"


@pytest.mark.parametrize(
    ("low", "high", "is_log"), [(1.0, 999.0, False), (1e-3, 1.0, True), (-1.0, 1e6, False)]
)
def test_an_axis_is_logarithmic_where_values_differ_by_magnitudes(
    low: float, high: float, is_log: bool
) -> None:
    svg = chart("loss", [ChartLine("t1", 0, [(0.0, low), (1.0, high)])])
    assert ("step · logarithmic" in svg) is is_log
    assert ">0</text>" in chart("memory", [ChartLine("t1", 0, [(3.0, low), (4.0, high)])], from_zero=True)


def test_output_is_shown_as_a_terminal_does() -> None:
    told = "\x1b[31mred\x1b[0m\r\n 1 %\r 50 %\r100 %\n\x1b]0;title\x07end\n"
    assert tail_of(told) == LogTail("red\n100 %\nend")
    long = tail_of("".join(f"{at}\n" for at in range(100)) + "x" * 500)
    assert long.is_cut and long.text.startswith("61\n") and long.text.endswith(f"\n{'x' * 400}…")


def test_the_best_and_the_worst_of_the_tasks_that_succeeded_are_marked() -> None:
    tasks = [
        ReportedTask(f"t{number}", status, metrics={"loss": loss, "same": 1.0, "odd": float("nan")})
        for number, (status, loss) in enumerate(
            [("succeed", 0.5), ("succeed", 0.25), ("succeed", 0.3), ("failed", 0.1)]
        )
    ]
    page = document(tasks, made_s=0)
    cells = re.findall('<td class="number">(?:▲ |▼ )?[0-9n][^<]*</td>', page)
    marked = [cell for cell in re.findall('<td class="number">(.*?)</td>', page) if cell]
    assert len(cells) == 12 and marked[0::3] == ["▲ 0.5", "▼ 0.25", "0.3", "0.1"]
    assert marked[1::3] == ["1"] * 4 and marked[2::3] == ["nan"] * 4
    assert "▲ highest and ▼ lowest" in page
    assert "▲" not in document(tasks[:1], made_s=0)


def test_the_table_has_the_inputs_that_differ_and_the_outcome() -> None:
    tasks = [
        ReportedTask(
            "t1 lr=1", "succeed", inputs={"lr": 1, "seed": 7}, metrics={"loss": 0.5, "~task/x": 1.0}
        ),
        ReportedTask("t2 lr=2", "failed", "Timeout", inputs={"lr": 2, "seed": 7}, limit_bytes=1 << 30),
    ]
    page = document(tasks, made_s=0)
    (head,) = re.findall("<thead>(.*)</thead>", page)
    columns = re.findall("<th>(.*?)</th>", head)
    assert columns == ["run", "outcome", "lr", "loss", "duration", "peak memory", "CPU time", "started"]
    assert "✘</span> failed (Timeout)" in page and "✔</span> succeed" in page


def test_values_of_a_column_that_differ_a_little_have_all_their_digits() -> None:
    tasks = [
        ReportedTask("t1", "succeed", inputs={"lr": 0.1, "x": 1 / 3}, metrics={"loss": 0.25}),
        ReportedTask(
            "t2", "succeed", inputs={"lr": 0.1000000001, "x": 2 / 3}, metrics={"loss": 0.2500000001}
        ),
    ]
    (body,) = re.findall("<table>.*?<tbody>(.*?)</tbody>", document(tasks, made_s=0), re.DOTALL)
    cells = re.findall('<td class="number">(.*?)</td>', body)
    assert [one for one in cells if one] == [
        *("0.1", "0.333333", "▼ 0.25"),
        *("0.1000000001", "0.666667", "▲ 0.2500000001"),
    ]


def test_a_notebook_shows_the_last_200_results_and_any_part_of_them() -> None:
    (one, *_) = results = TaskResults(
        TaskResult(f"t{at}", "j", "succeed", None, at, None, 0.1, None, None, None, None, None)
        for at in range(1201)
    )
    shown = results._repr_html_()
    assert "The first 1,001 results are left out" in shown and shown.count("<tr><th><svg") == 200
    assert results[1:3]._repr_html_().count("<tr><th><svg") == 2 and results[0] is one


def test_curves_in_folders_that_are_named_by_a_time_are_in_one_chart() -> None:
    points = (Point(1.0, 0, 0.5), Point(2.0, 1, 0.25))
    tasks = [
        ReportedTask(f"t{at}", "succeed", curves=[Curve(f"20261130-03440{at}/train", "loss", points)])
        for at in range(3)
    ]
    twice = [Curve(f"20261130-03450{at}/train", "loss", points) for at in range(2)]
    page = document([*tasks, ReportedTask("t4", "succeed", curves=twice)], made_s=0)
    assert re.findall(r'aria-label="(.*?)"', page) == [
        "20261130-034500/train/loss",
        "20261130-034501/train/loss",
        "train/loss",
    ]
    tasks = [
        ReportedTask(f"t{at}", "succeed", curves=[Curve(f"logs/run-0.{at}", "loss", points)])
        for at in range(3)
    ]
    assert re.findall(r'aria-label="(.*?)"', document(tasks, made_s=0)) == ["logs/loss"]


def test_of_very_many_tasks_the_latest_have_sections_and_lines() -> None:
    points = (Point(1.0, 0, 0.5), Point(2.0, 1, 0.25))
    tasks = [ReportedTask(f"t{at}", "succeed", curves=[Curve(".", "loss", points)]) for at in range(1, 251)]
    page = document(tasks, made_s=0)
    assert page.count("<tr><th><svg") == 250
    assert "The first 50 tasks are in the table only." in page
    assert re.findall("<summary><svg.*?</svg>(.*?)</summary>", page) == [f"t{at}" for at in range(51, 251)]
    assert re.findall("<li><svg.*?</svg>(.*?)</li>", page) == [f"t{at}" for at in range(211, 251)]
    assert "<li>and 210 more tasks, not drawn</li>" in page
