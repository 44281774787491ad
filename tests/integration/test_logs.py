"""Log records of forked processes arrive whole; output reaches its reader, or the lost lines are counted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.local import ALGORITHMS
from support.programs import HKRUNNER, run_hkrunner
from support.waiting import wait_until

WHOLE = re.compile(r"(\w+) (\d+) ([xyz]*) end")


def lines_of(algorithm: str, task: object, cwd: Path) -> list[str]:
    """Run it, and return what it has logged; every line of it has to be whole."""
    ended = run_hkrunner(
        "-q", "-e", ALGORITHMS / algorithm, "-i", json.dumps([task]), "--no-state", cwd=cwd, deadline_s=60
    )
    assert ended.status == 0, ended.stderr[-3000:]
    return ended.stderr.splitlines()


@pytest.mark.parametrize("size", [10, 3000, 100_000])
def test_records_of_a_pool_arrive_whole(size: int, tmp_path: Path) -> None:
    lines = lines_of("logs_from_a_pool.py", {"when": "before", "count": 100, "size": size}, tmp_path)
    found = [re.fullmatch(r"ForkPoolWorker-\d+: record (\d+) (x+) end", line) for line in lines]
    assert sorted(int(one[1]) for one in found if one is not None) == list(range(100)), lines[:3]
    assert len(lines) == 100 and {len(one[2]) for one in found if one is not None} == {size}


@pytest.mark.parametrize(
    ("when", "method"), [("after", "fork"), ("before", "spawn"), ("after", "forkserver")]
)
def test_records_that_a_pipe_takes_at_once_arrive_whole_without_handlers_too(
    when: str, method: str, tmp_path: Path
) -> None:
    task = {"when": when, "method": method, "count": 60, "size": 4000}
    lines = [
        line for line in lines_of("logs_from_a_pool.py", task, tmp_path) if "DeprecationWarning" not in line
    ]
    assert sorted(lines) == sorted(f"record {number} {'x' * 4000} end" for number in range(60))


def test_a_process_killed_in_the_middle_of_a_record_affects_no_other(tmp_path: Path) -> None:
    lines = lines_of("logs_while_workers_are_killed.py", 1, tmp_path)
    whole = [WHOLE.fullmatch(line) for line in lines]
    seen = sorted((one[1], int(one[2]), len(one[3])) for one in whole if one is not None)
    assert seen == [(who, number, 20_000) for who in ("main", "other") for number in range(12)]
    assert len(lines) == 24, "nothing of a torn record is shown"


def test_records_of_nested_forks_arrive_whole(tmp_path: Path) -> None:
    lines = lines_of("logs_from_nested_forks.py", [5, 100_000], tmp_path)
    assert sorted(lines) == [f"generation {number} {'x' * 100_000} end" for number in range(5)]


def test_errors_extras_and_odd_objects_arrive_at_each_handler(tmp_path: Path) -> None:
    lines = lines_of("logs_in_many_ways.py", str(tmp_path / "errors"), tmp_path)
    text = "\n".join(lines)
    assert "WARNING plain words [{'a': [1]}]" in lines
    assert "WARNING a message that cannot be pickled [<unlocked _thread.lock object" in text
    assert "ERROR it failed with 3\nTraceback (most recent call last):" in text
    assert "ValueError: from the worker [None]" in lines
    for kept in ("ERROR closed in the worker only [1]", "ERROR all closed [2]"):
        assert kept in lines
    assert "ERROR from the algorithm itself [3]" in lines and "not this" not in text
    kept_lines = [line for line in (tmp_path / "errors").read_text().splitlines() if line[0] != " "]
    kept_lines.remove(
        "from the algorithm itself"
    )  # it may overtake those of the worker, which are on their way
    assert kept_lines == [
        "it failed with 3",
        "Traceback (most recent call last):",
        "ValueError: from the worker",
        "closed in the worker only",
    ]


def test_a_fork_that_logs_for_ever_does_not_hold_the_answer_up(tmp_path: Path) -> None:
    ended = run_hkrunner("-e", ALGORITHMS / "logs_endlessly_from_a_fork.py", "-i", "1", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, '"answered"\n')


# ---- readers that are slow, or stop


@contextmanager
def running(task: dict[str, object], *options: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """hkrunner with a task of logs_a_lot.py, in the background; its output is not read."""
    process = subprocess.Popen(
        [HKRUNNER, *options, "-e", ALGORITHMS / "logs_a_lot.py", "-i", json.dumps([task])],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.terminate()
        with process:
            pass


def shown_and_result(process: subprocess.Popen[bytes]) -> tuple[bytes, float]:
    """Read to the end; return what was printed and the seconds that it took the algorithm."""
    out, err = process.communicate(timeout=60)
    return err, float(out)


def test_a_stopped_reader_holds_the_algorithm_for_a_second_and_then_loses_counted_lines(
    tmp_path: Path,
) -> None:
    count, until = 900_000, tmp_path / "until"  # more than is kept for a reader
    with running({"lines": count, "until": str(until)}, "-q", cwd=tmp_path) as process:
        log = tmp_path / ".hkrunner" / "tasks" / "t1"
        wait_until(
            Path(f"{until}.printed").exists, deadline_s=60, what="its last line, while nobody has read a byte"
        )
        resident = psutil.Process(process.pid).memory_info().rss
        with ThreadPoolExecutor(1) as reader:
            reading = reader.submit(shown_and_result, process)
            until.touch()  # from here on hkrunner may end, which waits a second for a reader
            text, _ = reading.result()
    note = re.search(rb"^\[hkrunner: ([\d,]+) lines were dropped here .*\n", text, re.M)
    assert note is not None
    dropped = int(note[1].replace(b",", b""))
    lines = [line for line in text.splitlines() if line.startswith(b"line ")]
    assert len(lines) + dropped == count and lines == sorted(lines, key=lambda line: int(line[5:]))
    assert (log / "stdout.log").stat().st_size == sum(len(f"line {n}\n") for n in range(count))
    assert resident < 80 * 1024 * 1024


def test_a_reader_that_comes_late_but_within_the_cap_loses_nothing(tmp_path: Path) -> None:
    with running({"bytes": 30_000_000}, "-q", "--no-state", cwd=tmp_path) as process:
        text, took_s = shown_and_result(process)
    assert text == b"x" * 30_000_000 + b"\n" and took_s < 30


def test_a_line_of_100_mb_passes_and_its_log_is_cut_with_a_note(tmp_path: Path) -> None:
    with running({"bytes": 100_000_000}, "-q", cwd=tmp_path) as process:
        text, _ = shown_and_result(process)
    assert len(text) == 100_000_001 and text.count(b"x") == 100_000_000
    log = tmp_path / ".hkrunner" / "tasks" / "t1" / "stdout.log"
    assert log.stat().st_size < 65 * 1024 * 1024
    with log.open("rb") as file:
        file.seek(-100, os.SEEK_END)
        assert b"[hkrunner: stdout is cut here" in file.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_flood_to_a_stopped_reader_ends_when_it_is_told_to(number: int, tmp_path: Path) -> None:
    with running({"flood": True}, "-q", "--grace", "0", cwd=tmp_path) as process:
        log = tmp_path / ".hkrunner" / "tasks" / "t1" / "stdout.log"
        wait_until(
            lambda: log.exists() and log.stat().st_size > 12_000_000, deadline_s=60, what="more than is kept"
        )
        process.send_signal(number)
        assert process.wait(20) == 128 + number


def test_a_time_limit_is_not_late_for_a_stopped_reader(tmp_path: Path) -> None:
    with running({"flood": True}, "-q", "--timeout", "1", cwd=tmp_path):
        task = tmp_path / ".hkrunner" / "tasks" / "t1" / "task.json"

        def has_ended() -> bool:
            return task.exists() and b'"failed"' in task.read_bytes()

        wait_until(has_ended, what="the end of the task at its limit")
        assert b"TIMEOUT" in (task.parent / "error.json").read_bytes().upper().replace(b"_", b"")


def test_results_wait_for_a_reader_that_has_stopped(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    command = [HKRUNNER, "-q", "--no-state", "-e", ALGORITHMS / "gives_its_input_back.py", "-i"]
    with subprocess.Popen(
        [*command, json.dumps(["r" * 90_000])], cwd=tmp_path, stdout=writing, stderr=subprocess.DEVNULL
    ) as process:
        os.close(writing)
        # Its children have gone, or wait to: 90,000 bytes do not fit into the pipe.
        end = time.monotonic() + 1.5
        wait_until(
            lambda: time.monotonic() > end or process.poll() is not None, what="more than it waits at its end"
        )
        assert process.poll() is None
        with os.fdopen(reading, "rb") as file:
            assert json.loads(file.read()) == ["r" * 90_000]
        assert process.wait(20) == 0
