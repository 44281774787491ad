"""The next task after a kill, a change of process between tasks, and the warning about leaks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.local import run_tasks


def test_an_end_while_a_new_child_cannot_be_loaded_is_an_end(tmp_path: Path) -> None:
    args = ("--recycle-after", "1")
    env = {"COUNT": str(tmp_path / "count")}
    run = run_tasks("fails_to_load_from_its_third_time_on.py", [1], [2], cwd=tmp_path, args=args, env=env)
    assert (run.status, run.outputs) == (0, ["served", "served"])


@pytest.mark.alone
def test_a_spare_process_takes_over_at_once(tmp_path: Path) -> None:
    """With numpy to import: the spare has it already."""
    told = []
    for _ in range(3):  # the machine may be busy with something else in one of them
        cold = run_tasks("limits_dies_late.py", ["misbehave"], ["behave"], cwd=tmp_path)
        warm = run_tasks("limits_dies_late.py", ["misbehave"], ["behave"], cwd=tmp_path, args=("--spare",))
        assert [one["status"] for one in warm.tasks] == ["failed", "succeed"]
        told.append((warm.tasks[1]["durationMs"], cold.tasks[1]["durationMs"]))
        if told[-1][0] < min(60, told[-1][1]):
            return
    raise AssertionError(f"milliseconds with a spare process, and without: {told}")


def test_without_a_spare_process_the_task_after_a_crash_waits_for_a_new_one(
    tmp_path: Path,
) -> None:
    run = run_tasks("counts_its_tasks.py", ["go"], ["exit"], ["go"], cwd=tmp_path)
    assert run.outputs == [[1, True], None, [1, True]]


@pytest.mark.parametrize("policy", [os.SCHED_OTHER, os.SCHED_BATCH])  # SCHED_IDLE may get no CPU time
def test_the_next_process_has_the_same_warden_and_the_priority_that_hkrunner_was_started_with(
    tmp_path: Path, policy: int
) -> None:
    usual = os.sched_getscheduler(0)
    os.sched_setscheduler(0, policy, os.sched_param(0))  # of this thread, which starts hkrunner
    try:
        run = run_tasks("tells_what_its_warden_left_it.py", ["go"], ["exit"], ["go"], cwd=tmp_path)
    finally:
        os.sched_setscheduler(0, usual, os.sched_param(0))
    before, _, after = run.outputs
    assert before == after and before[1] == policy


def test_a_spare_ends_with_the_run(tmp_path: Path) -> None:
    run = run_tasks("adds.py", [1, 2], cwd=tmp_path, args=("--spare", "--mem", "128Mi"))
    assert run.status == 0


def test_a_process_is_changed_after_as_many_tasks_as_were_asked_for(tmp_path: Path) -> None:
    run = run_tasks("limits_leaks.py", *[[1]] * 7, cwd=tmp_path, args=("--recycle-after", "3"))
    pids = [pid for pid, _ in run.outputs]
    assert [count for _, count in run.outputs] == [1, 2, 3, 1, 2, 3, 1]
    assert (run.status, len(set(pids))) == (0, 3)


def test_memory_that_grows_with_each_task_is_reported_before_the_limit(tmp_path: Path) -> None:
    run = run_tasks("limits_leaks.py", *[[5]] * 17, cwd=tmp_path, args=("--mem", "100Mi"))
    assert run.status == 0
    (line,) = (line for line in run.stderr.splitlines() if "memory grew" in line)
    assert "MiB per task over " in line and "of 100 MiB; --recycle-after would start a new process" in line


def test_memory_that_stays_the_same_is_no_leak(tmp_path: Path) -> None:
    run = run_tasks("counts_its_tasks.py", *[["go"]] * 30, cwd=tmp_path, args=("--mem", "64Mi"))
    assert run.status == 0 and "memory grew" not in run.stderr


def test_tasks_that_give_their_memory_back_are_no_leak(tmp_path: Path) -> None:
    inputs = [[0, 1], *[[0, 75]] * 14]
    run = run_tasks("limits_peaks_and_gives_back.py", *inputs, cwd=tmp_path, args=("--mem", "100Mi"))
    assert run.status == 0 and "memory grew" not in run.stderr
    assert all(task["peakMemBytes"] > 80 << 20 for task in run.tasks[1:])
