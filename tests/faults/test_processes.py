"""A limit on processes, and what becomes of those that a task leaves running."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from support.local import error_of, run_tasks

pytestmark = pytest.mark.alone


def test_too_many_processes_are_ended_with_both_numbers(tmp_path: Path) -> None:
    args = ("--pids", "20")
    run = run_tasks("limits_forks_slowly.py", [100, 0.01], ["behave"], cwd=tmp_path, args=args)
    code, message = error_of(run.tasks[0])
    assert code == "TOO_MANY_PROCESSES"
    found = re.search(r"(\d+) processes of 20 allowed \(--pids\) after [\d.]+ s; python \(pid \d+\)", message)
    assert found is not None, message
    # One comes every 10 ms, and the count is taken 20 times as often; a busy machine may be late.
    assert 20 < int(found[1]) < 100
    assert "raise the limit" in message
    assert re.search(r"^\d\d processes left by the algorithm ended with it: ", message, re.M)
    assert (run.status, run.tasks[0]["reason"], run.outputs[1]) == (1, "Crashed", "served")


def test_as_many_processes_as_are_allowed_are_no_error(tmp_path: Path) -> None:
    run = run_tasks("limits_forks_slowly.py", [9, 0.01], cwd=tmp_path, args=("--pids", "10"))
    assert (run.status, run.outputs) == (0, ["nobody minded"])


def test_processes_that_a_task_leaves_are_kept_and_reported(tmp_path: Path) -> None:
    run = run_tasks("limits_leaves_children.py", [], [3], cwd=tmp_path)
    (first, _), (second, seen) = run.outputs
    assert first == second and len(seen) == 3
    assert "task t1 left 3 more processes running; they end with the algorithm's own process" in run.stderr
    assert "--end-children: with the task" in run.stderr
    assert re.search(r"6 processes left by the algorithm ended with it: sleep \(pid", run.stderr)


def test_end_children_ends_them_with_their_task(tmp_path: Path) -> None:
    run = run_tasks("limits_leaves_children.py", [], [0], cwd=tmp_path, args=("--end-children",))
    (first, _), (second, seen) = run.outputs
    assert first == second, "the child itself goes on"
    assert seen == []
    assert "more processes running" not in run.stderr


@pytest.mark.parametrize("lasts_s", [0, 0.4])
def test_what_a_task_left_is_ended_and_nothing_that_the_next_one_starts(
    lasts_s: float, tmp_path: Path
) -> None:
    inputs: list[list[float]] = [[lasts_s], []] * 3
    run = run_tasks(
        "leaves_a_process_and_runs_a_shell.py", *inputs, cwd=tmp_path, args=("--end-children",), deadline_s=60
    )
    assert (run.status, run.outputs) == (0, [None, [-signal.SIGKILL, 0]] * 3)


@pytest.mark.parametrize("args", [(), ("--end-children",)])
def test_pythons_own_fork_server_stays_and_is_not_reported(args: tuple[str, ...], tmp_path: Path) -> None:
    run = run_tasks("uses_a_fork_server.py", [], [], [], cwd=tmp_path, args=args)
    assert run.status == 0 and len(set(run.outputs)) == 1
    assert "process running" not in run.stderr and "left by the algorithm" not in run.stderr


def test_a_process_of_the_task_that_is_named_like_a_helper_of_pythons_is_ended(tmp_path: Path) -> None:
    run = run_tasks(
        "leaves_what_is_named_like_a_helper.py", [], [], cwd=tmp_path, args=("--end-children",), deadline_s=60
    )
    assert (run.status, run.outputs) == (0, [True, False])
