"""A child that is killed by a signal is reported with the signal's name and Python's stack, and replaced."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from support.local import error_of, misbehave_once

CRASHES = {
    "crashes_by_segfault": signal.SIGSEGV,
    "crashes_by_abort": signal.SIGABRT,
    "crashes_by_sigbus": signal.SIGBUS,
    "crashes_by_sigfpe": signal.SIGFPE,
    "crashes_by_sigill": signal.SIGILL,
}


@pytest.mark.parametrize("algorithm", CRASHES)
def test_a_crash_is_reported_by_its_signal_and_the_line_it_happened_in(
    algorithm: str, tmp_path: Path
) -> None:
    run = misbehave_once(f"{algorithm}.py", cwd=tmp_path)
    number = CRASHES[algorithm]
    code, message = error_of(run.tasks[0])
    assert code == "KILLED_BY_SIGNAL"
    assert number.name in message
    assert f'{algorithm}.py", line' in message and "in crash" in message
    assert "child.py" not in message
    assert (run.status, run.tasks[0]["reason"]) == (128 + number, "Crashed")


def test_the_last_output_before_a_crash_is_reported(tmp_path: Path) -> None:
    run = misbehave_once("crashes_by_segfault.py", cwd=tmp_path)
    assert "last output:\n  reading address 0" in error_of(run.tasks[0])[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_sent_by_another_process_is_reported_as_such(number: signal.Signals, tmp_path: Path) -> None:
    run = misbehave_once(f"killed_by_{number.name.lower()}.py", cwd=tmp_path)
    code, message = error_of(run.tasks[0])
    assert code == "KILLED_BY_SIGNAL"
    assert f"{number.name} (not by this runner)" in message
    assert run.status == 128 + number


def test_a_crash_in_a_thread_ends_the_task(tmp_path: Path) -> None:
    run = misbehave_once("crashes_in_a_thread.py", cwd=tmp_path)
    assert "SIGSEGV" in error_of(run.tasks[0])[1]
    assert run.status == 139
