"""SIGTERM to hkrunner while an algorithm works, however the algorithm reacts."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from support.local import ALGORITHMS, run_tasks
from support.programs import Program, serving
from support.waiting import wait_until

GRACE = ("--grace", "0.3")

STUBBORN = [
    "ignores_stop",
    "blocks_signals",
    "holds_the_gil",
    "stops_itself",
    "hangs_in_stop",
]


def start(algorithm: str, folder: Path, *args: str) -> Program:
    entry = ALGORITHMS / f"{algorithm}.py"
    with serving("--entry", entry, "-i", '["misbehave"]', *args, cwd=folder) as program:
        program.wait_for_line("at work")
        if algorithm == "stops_itself":
            wait_until(lambda: any(one.status() == "stopped" for one in program.family()), what="its SIGSTOP")
        program.send_signal(signal.SIGTERM)
        program.wait()
    return program


def record_of(folder: Path) -> dict[str, object]:
    record = json.loads((folder / ".hkrunner/tasks/t1/task.json").read_text())
    assert isinstance(record, dict)
    return record


@pytest.mark.parametrize("algorithm", STUBBORN)
def test_an_algorithm_that_does_not_stop_is_killed_after_the_grace(algorithm: str, tmp_path: Path) -> None:
    program = start(algorithm, tmp_path, *GRACE)
    assert program.status == 143, program.report()
    record = record_of(tmp_path)
    assert (record["status"], record["reason"]) == ("stopped", "Stopped")
    assert "STOP_FORCED: the algorithm did not end when asked and was killed" in json.dumps(record["error"])
    assert "s · no process left: STOP_FORCED: " in "\n".join(program.stderr)


WILLING = {
    "stops_when_asked": ["stop called with {'forceStop': True}", "work has ended", "exit called"],
    "watches_for_a_stop": ["saw the stop"],
    "replaces_threads": ["stop called in hkrunner-stop"],
    "is_stopped_as_a_coroutine": ["cleaned up"],
    "raises_in_stop": ["stop() of task t1 failed: ALGORITHM_ERROR: OSError: the camera is gone"],
    "exits_in_stop": [],
    "exits_when_stopped": [],
}


@pytest.mark.parametrize("algorithm", WILLING)
def test_an_algorithm_that_stops_is_not_killed(algorithm: str, tmp_path: Path) -> None:
    # A grace that would be far too long to wait for.
    program = start(algorithm, tmp_path, "--grace", "60")
    assert program.status == 143, program.report()
    for text in WILLING[algorithm]:
        assert text in "\n".join(program.stderr), program.report()
    record = record_of(tmp_path)
    assert (record["status"], record["error"]) == ("stopped", None)


@pytest.mark.parametrize(
    "algorithm", ["raises_in_exit", "hangs_in_exit", "calls_exit_in_exit", "leaves_a_thread"]
)
def test_what_happens_at_the_end_does_not_change_the_result(algorithm: str, tmp_path: Path) -> None:
    run = run_tasks(f"{algorithm}.py", [1], args=GRACE, cwd=tmp_path)
    assert (run.status, run.outputs) == (0, ["served"])


@pytest.mark.parametrize(
    ("algorithm", "place"),
    [("hangs_in_exit", "; it was at hangs_in_exit.py:13 in exit"), ("leaves_a_thread", "")],
)
def test_a_process_that_does_not_end_after_its_last_task_is_reported(
    algorithm: str, place: str, tmp_path: Path
) -> None:
    run = run_tasks(f"{algorithm}.py", [1], args=GRACE, cwd=tmp_path)
    said = f"● the algorithm's process did not end when asked, and was killed after --grace{place}\n"
    assert said in run.stderr


def test_a_process_that_has_no_time_to_end_is_not_reported_as_one_that_does_not_end(tmp_path: Path) -> None:
    run = run_tasks("adds.py", [1], args=("--grace", "0"), cwd=tmp_path)
    assert (run.status, run.outputs) == (0, [1]) and "did not end when asked" not in run.stderr


def test_what_exit_raises_is_reported(tmp_path: Path) -> None:
    run = run_tasks("raises_in_exit.py", [1], cwd=tmp_path)
    assert "OSError: the database is gone in exit() (raises_in_exit.py:9 in exit)" in run.stderr


def test_the_interpreter_ends_in_order(tmp_path: Path) -> None:
    run = run_tasks("writes_at_its_end.py", [1], cwd=tmp_path)
    assert (run.status, run.outputs) == (0, ["served"])
    assert "good-bye from atexit" in run.stderr


def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    with serving("-e", ALGORITHMS / "ignores_stop.py", "-i", "[1]", "--grace", "60", cwd=tmp_path) as program:
        program.wait_for_line("at work")
        program.send_signal(signal.SIGINT)
        program.wait_for_line("not now")
        program.send_signal(signal.SIGINT)
        assert program.wait() == 130
    assert "killed by a second interrupt" in json.dumps(record_of(tmp_path)["error"])


def test_a_stopped_child_can_be_killed_by_the_user(tmp_path: Path) -> None:
    """The task of a child that another process kills is answered, and the next one is served."""
    entry = ALGORITHMS / "holds_the_gil.py"
    with serving("-e", entry, "-i", '["misbehave"]', "-i", '["behave"]', "-j", cwd=tmp_path) as program:
        program.wait_for_line("at work")
        (child,) = (one for one in program.family() if one.children() == [] and "child" in one.cmdline())
        os.kill(child.pid, signal.SIGKILL)
        assert program.wait() == 137
    first, second = (json.loads(line) for line in program.stdout)
    assert (first["error"]["code"], second["output"]) == ("KILLED_BY_SIGNAL", "served")
