"""A child that ends before it has answered is reported with its exit status, and replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.local import error_of, misbehave_once, run_tasks

EXITS = {
    "exits_by_sys_exit": ["sys.exit(3)", "exits_by_sys_exit.py:9 in start"],
    "exits_with_a_sentence": ["sys.exit('the model file is missing')"],
    "exits_at_once": [
        "code 3 before answering (exits_at_once.py:9 in start)\n",
        "last output:\n  the last words",
    ],
    "exits_with_success": ["code 0 before answering (exits_with_success.py:8 in start)"],
    "exits_in_init": ["code 3 before answering"],
}


@pytest.mark.parametrize("algorithm", EXITS)
def test_an_exit_is_the_answer_of_its_task_alone(algorithm: str, tmp_path: Path) -> None:
    run = misbehave_once(f"{algorithm}.py", cwd=tmp_path)
    code, message = error_of(run.tasks[0])
    assert code == "EXITED"
    for part in EXITS[algorithm]:
        assert part in message
    assert (run.status, run.tasks[0]["reason"]) == (1, "Crashed")


def test_a_new_child_serves_the_next_task(tmp_path: Path) -> None:
    run = run_tasks("counts_its_tasks.py", ["go"], ["exit"], ["go"], cwd=tmp_path)
    assert run.outputs == [[1, True], None, [1, True]]


def test_every_task_may_end_its_process(tmp_path: Path) -> None:
    run = run_tasks("exits_at_once.py", *[["misbehave"]] * 5, ["behave"], cwd=tmp_path)
    assert [task["status"] for task in run.tasks] == ["failed"] * 5 + ["succeed"]


def test_a_child_that_dies_between_two_tasks_fails_neither(tmp_path: Path) -> None:
    run = run_tasks("crashes_between_tasks.py", ["misbehave"], *[["behave"]] * 40, cwd=tmp_path)
    # It may die in the middle of a later, very short task; then that one fails, and no other.
    failed = [task for task in run.tasks if task["status"] != "succeed"]
    assert len(run.tasks) == 41 and len(failed) <= 1
    for task in failed:
        assert error_of(task)[0] == "EXITED"


@pytest.mark.parametrize("algorithm", ["forks_and_returns", "forks_and_raises", "forks_and_exits"])
def test_a_fork_of_the_child_never_answers(algorithm: str, tmp_path: Path) -> None:
    run = misbehave_once(f"{algorithm}.py", cwd=tmp_path)
    assert run.outputs == ["from the parent", "served"]
    assert run.status == 0


def test_a_fork_made_at_import_serves_no_task(tmp_path: Path) -> None:
    run = run_tasks("forks_at_import.py", [1], [2], cwd=tmp_path)
    assert run.outputs == ["served", "served"]
