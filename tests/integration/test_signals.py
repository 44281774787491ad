"""Ctrl-C, SIGTERM and SIGHUP at each moment of a local run."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from hkrunner.runner.io import signals
from hkrunner.sandbox.shared import stop_signals
from support.local import ALGORITHMS
from support.programs import HKRUNNER, Program, run, serving
from support.waiting import wait_until

STOPS = ALGORITHMS / "stops_when_asked.py"
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_stops_in_order(number: signal.Signals, tmp_path: Path) -> None:
    with serving("-e", STOPS, "-i", "[1]", "-i", "[2]", cwd=tmp_path) as program:
        program.wait_for_line("at work")
        program.send_signal(number)
        assert program.wait() == 128 + number
    said = "\n".join(program.stderr)
    for earlier, later in [
        ("stop called", "work has ended"),
        ("work has ended", "exit called"),
        ("stopping: 5 s to end", "task t1 stopped"),
    ]:
        assert 0 <= said.find(earlier) < said.find(later), program.report()
    assert re.search(r"■ task t1 stopped in [\d.]+ m?s · no process left$", said, re.M), program.report()
    assert program.stdout == []
    assert "Traceback" not in said
    assert not (tmp_path / ".hkrunner" / "tasks" / "t2").exists()


def test_all_processes_have_the_same_signals_that_end_a_run() -> None:
    assert stop_signals.STOP_SIGNALS == signals.STOP_SIGNALS


def test_json_reports_a_stopped_task(tmp_path: Path) -> None:
    with serving("-e", STOPS, "-i", "[1]", "--json", cwd=tmp_path) as program:
        program.wait_for_line("at work")
        program.send_signal(signal.SIGINT)
        assert program.wait() == 130
    (line,) = program.stdout
    assert '"status":"stopped","reason":"Stopped"' in line


def test_a_signal_during_import_ends_at_once_after_the_grace(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text(
        "import signal, time\nsignal.alarm(60)\nprint('loading', flush=True)\ntime.sleep(60)\n"
    )
    with serving("-e", "alg.py", "-i", "1", "--grace", "0.2", cwd=tmp_path) as program:
        program.wait_for_line("loading")
        program.send_signal(signal.SIGTERM)
        assert program.wait() == 143
    said = "\n".join(program.stderr)
    assert "■ stopping: the code is still loading, 0.2 s to end" in said and "Traceback" not in said


def test_a_signal_while_hkrunner_starts_leaves_no_folder(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    args = ("-e", ALGORITHMS / "sleeps.py", "-i", "60", "--no-state", "--grace", "0.2")
    with serving(*args, cwd=tmp_path, env={"TMPDIR": str(temporary)}) as program:
        wait_until(lambda: list(temporary.iterdir()), what="the folder for metrics is made")
        program.send_signal(signal.SIGUSR1)
        assert program.wait() == 128 + signal.SIGUSR1
    assert list(temporary.iterdir()) == []


def test_a_terminals_ctrl_c_reaches_the_algorithm_through_hkrunner_only(tmp_path: Path) -> None:
    """The terminal signals its whole foreground group: the child is not in it."""
    with serving("-e", STOPS, "-i", "[1]", cwd=tmp_path) as program:
        program.wait_for_line("at work")
        os.killpg(program.pid, signal.SIGINT)
        assert program.wait() == 130
    assert "work has ended" in "\n".join(program.stderr)
    assert "KeyboardInterrupt" not in "\n".join(program.stderr)


def test_three_signals_in_a_row_end_once(tmp_path: Path) -> None:
    entry = ALGORITHMS / "ignores_stop.py"
    with serving("-e", entry, "-i", "[1]", "--grace", "60", cwd=tmp_path) as program:
        program.wait_for_line("at work")
        for _ in range(3):
            if program.status is None:
                program.send_signal(signal.SIGTERM)
        program.send_signal(signal.SIGTERM)
        program.wait_for_line("stopping")
        program.send_signal(signal.SIGTERM)
        assert program.wait() == 143


def test_a_grace_of_zero_kills_at_once(tmp_path: Path) -> None:
    with serving("-e", ALGORITHMS / "ignores_stop.py", "-i", "[1]", "--grace", "0", cwd=tmp_path) as program:
        program.wait_for_line("at work")
        program.send_signal(signal.SIGTERM)
        assert program.wait() == 143


def test_hkrunner_ends_by_its_own_status_even_where_sigterm_was_ignored(tmp_path: Path) -> None:
    """A shell that ran it with `trap '' TERM` hands the ignored signal down."""
    line = "trap '' TERM; exec \"$0\" -e \"$1\" -i '[1]'"
    with Program(["sh", "-c", line, HKRUNNER, STOPS], cwd=tmp_path) as program:
        program.wait_for_line("at work")
        program.send_signal(signal.SIGTERM)
        assert program.wait() == 143


def test_a_closed_stdin_stdout_or_stderr_does_not_fail_the_run(tmp_path: Path) -> None:
    line = 'exec "$0" -e "$1" -i 1 <&- >&- 2>&-'
    ended = run(["sh", "-c", line, HKRUNNER, ALGORITHMS / "adds.py"], cwd=tmp_path)
    assert ended.status in (0, 141)
    assert (tmp_path / ".hkrunner" / "tasks" / "t1" / "output.json").read_text() == "1"
