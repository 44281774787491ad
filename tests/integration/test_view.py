"""The line at the bottom of a terminal: a real pseudo-terminal, read as one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hkrunner.runner.console.status_line import curve
from support.status_terminal import ERASE, last_line, left_on_screen, status_terminal, without_colors
from support.waiting import wait_until


def test_a_task_that_lasts_is_reported_in_one_line_that_is_gone_in_the_end(tmp_path: Path) -> None:
    with status_terminal(
        tmp_path, "-i", '["progress", "last words"]', "-i", '["", ""]', "--mem", "512Mi"
    ) as one:
        used = r"cpu \d\.\d\d  mem \d\d(\.\d)? MiB of 512 MiB [▁▂▃▄▅▆▇█]+"
        everything = rf"▶ t1  0 of 2 done  00:\d\d  {used}  40 %  ━+[╸╺]?━+  epoch 3"
        text = one.wait_until(
            lambda text: re.match(everything, last_line(text)) is not None, "the line with everything"
        )
        assert len(last_line(text)) < 100 and "\n" not in last_line(text)
        (tmp_path / "go").touch()
        status, out = one.end()
        shown = left_on_screen(one.shown)
    assert (status, out) == (0, '"it is done"\n' * 2)
    assert "last words\n" in shown and "✔ t1 done" in shown
    assert "▶" not in shown


def test_code_that_takes_long_to_load_shows_a_sign_of_life(tmp_path: Path) -> None:
    code = "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.05)\ndef start(args): ...\n"
    with status_terminal(tmp_path, "-i", "1", code=code) as one:
        # A busy machine may leave out a second.
        one.wait_until(
            lambda text: re.search(r"◌ loading alg\.py  00:(0[2-9]|[1-5]\d)", text) is not None,
            "a sign of life",
        )
        (tmp_path / "go").touch()
        status, _ = one.end()
        shown = left_on_screen(one.shown)
    assert status == 0 and "loading" not in shown


def test_code_that_takes_long_to_load_for_a_worker_is_reported_once(tmp_path: Path) -> None:
    args = ("--url", "ws://127.0.0.1:9", "--grace", "0.2")
    with status_terminal(tmp_path, *args, code="import time\ntime.sleep(60)\n") as one:
        one.wait_until(lambda text: text.count("◌ loading alg.py …") == 1, "a sign of life")


def test_a_line_of_the_algorithms_is_not_cut_in_two(tmp_path: Path) -> None:
    with status_terminal(tmp_path, "-i", '["half a ", "line"]') as one:
        one.wait_until(lambda text: "half a " in text, "the first half")
        (tmp_path / "go").touch()
        one.end()
        shown = left_on_screen(one.shown)
    assert "half a line\n" in shown


def test_a_narrow_terminal_shows_the_most_important_parts(tmp_path: Path) -> None:
    with status_terminal(tmp_path, "-i", '["progress", ""]', "--mem", "512Mi", columns=60) as one:
        line = r"▶ t1  00:\d\d  cpu \d\.\d\d  mem \d\d(\.\d)? MiB of 512 MiB [▁▂▃▄▅▆▇█]+  40 %"
        text = one.wait_until(lambda text: re.match(line, last_line(text)) is not None, "the line")
        assert len(last_line(text)) < 60
        (tmp_path / "go").touch()
        one.end()


def test_a_terminal_that_is_not_read_blocks_nothing(tmp_path: Path) -> None:
    with status_terminal(tmp_path, "-i", '["progress", ""]', "--timeout", "1.5") as one:
        wait_until(lambda: one.process.poll() is not None, what="its end by the time limit")
        assert one.process.returncode == 124


def test_no_color_means_no_color(tmp_path: Path) -> None:
    with status_terminal(tmp_path, "-i", '["progress", ""]', env={"NO_COLOR": "1"}) as one:
        text = one.wait_until(lambda text: "epoch 3" in text, "the line")
        assert without_colors(text) == text
        (tmp_path / "go").touch()
        one.end()


@pytest.mark.parametrize(("args", "env"), [(["-q"], {}), ([], {"TERM": "dumb"})])
def test_nothing_is_drawn_with_quiet_or_on_a_terminal_that_cannot(
    args: list[str], env: dict[str, str], tmp_path: Path
) -> None:
    with status_terminal(tmp_path, "-i", '["progress", ""]', "--timeout", "1.5", *args, env=env) as one:
        status, _ = one.end()
        assert status != 0
        assert ERASE not in one.shown and "epoch" not in one.shown


def test_a_short_run_does_not_import_what_draws(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    for number in range(1, 6):  # on a busy machine some may not be short
        with status_terminal(tmp_path, "-i", '["", ""]', env={"PYTHONVERBOSE": None}) as one:
            status, _ = one.end()
        assert status == 0 and f"✔ t{number} done" in one.shown
        if ERASE not in one.shown:
            return
    raise AssertionError(one.shown)


def test_the_curve_is_drawn_against_the_limit() -> None:
    assert curve([0, 50, 100, 200], 100) == "▁▅██"
    assert curve([1, 2], None) == "▅█"
    assert curve([], None) == ""
