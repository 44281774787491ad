"""Processes that an algorithm starts and leaves: none outlives hkrunner."""

from __future__ import annotations

import json
import os
import re
import signal
import uuid
from pathlib import Path

import psutil
import pytest
from support.local import ALGORITHMS, error_of, misbehave_once, run_tasks
from support.processes import marked, runs
from support.programs import Program, serving
from support.sandboxes import BEST
from support.waiting import wait_until

TREE = 56
VARIABLE = "HKRUNNER_TEST_TREE"


def living(tree: str) -> set[psutil.Process]:
    return {process for process in marked(tree, variable=VARIABLE) if runs(process)}


def processes_of(program: Program, tree: str) -> tuple[psutil.Process, set[psutil.Process]]:
    """The warden, and the 56 of the algorithm once they all stand."""
    program.wait_for_line("the tree stands")
    (warden,) = (one for one in program.family() if "warden" in one.cmdline())
    ours = {program.pid, warden.pid}
    wait_until(
        lambda: len({one for one in living(tree) if one.pid not in ours}) == TREE, what=f"{TREE} processes"
    )
    return warden, {one for one in living(tree) if one.pid not in ours}


def states(processes: set[psutil.Process]) -> set[str]:
    return {process.status() for process in processes}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_of_a_hostile_tree_outlives_a_stop(number: signal.Signals, tmp_path: Path) -> None:
    tree = uuid.uuid4().hex
    arguments = ["-e", ALGORITHMS / "hostile_tree.py", "-i", '["misbehave"]', "--grace", "0.2"]
    with serving(*arguments, cwd=tmp_path, env={VARIABLE: tree}) as program:
        processes_of(program, tree)
        program.send_signal(number)
        assert program.wait() == 128 + number
        assert not living(tree)


def test_nothing_of_a_hostile_tree_outlives_hkrunner_killed(tmp_path: Path) -> None:
    tree = uuid.uuid4().hex
    with serving(
        "-e", ALGORITHMS / "hostile_tree.py", "-i", '["misbehave"]', cwd=tmp_path, env={VARIABLE: tree}
    ) as program:
        processes_of(program, tree)
        program.send_signal(signal.SIGKILL)
        wait_until(lambda: not living(tree), what="the end of all 57")
        assert program.wait() == -signal.SIGKILL


def test_nothing_of_a_hostile_tree_outlives_its_warden_and_the_next_task_is_served(tmp_path: Path) -> None:
    tree = uuid.uuid4().hex
    arguments = ["-e", ALGORITHMS / "hostile_tree.py", "-i", '["misbehave"]', "-i", '["behave"]']
    with serving(*arguments, cwd=tmp_path, env={VARIABLE: tree}) as program:
        warden, processes = processes_of(program, tree)
        warden.kill()
        wait_until(lambda: not any(map(runs, processes)), what="the end of all 56")
        assert program.wait() == 1
        assert not living(tree)
    assert program.stdout == ['"served"']
    assert "RUNNER_ERROR: hkrunner's warden process was lost" in "\n".join(program.stderr)


def test_a_warden_that_is_stopped_goes_on_and_its_limits_hold(tmp_path: Path) -> None:
    go = tmp_path / "go"
    arguments = ["-e", ALGORITHMS / "limits_grows_in_blocks.py", "--mem", "100Mi", "--mem-mode", "rss"]
    inputs = ["-i", json.dumps([400, 200, 20, str(go)]), "-i", '["behave"]']
    with serving(*arguments, *inputs, cwd=tmp_path) as program:
        program.wait_for_line("ready to grow")
        (warden,) = (one for one in program.family() if "warden" in one.cmdline())
        warden.suspend()
        go.touch()
        assert program.wait() == 137
    assert program.stdout == ['"served"']
    assert "OUT_OF_MEMORY" in "\n".join(program.stderr)


def test_the_end_of_an_algorithm_is_told_although_process_1_of_its_namespace_was_stopped(
    tmp_path: Path,
) -> None:
    if BEST != "full":
        return  # it has no namespace
    arguments = ["-e", ALGORITHMS / "sleeps.py", "--sandbox", "strict", "-i", '["misbehave"]']
    with serving(*arguments, cwd=tmp_path) as program:
        program.wait_for_line("asleep")
        (warden,) = psutil.Process(program.pid).children()
        (first,) = warden.children()
        (child,) = first.children()
        first.suspend()
        child.kill()
        assert program.wait() == 137
    assert "KILLED_BY_SIGNAL" in "\n".join(program.stderr)


def test_nothing_outlives_hkrunner_and_its_warden_killed_one_after_the_other(tmp_path: Path) -> None:
    """The worst case: what the warden had not ended yet is left to the kernel, so the child goes at least."""
    tree = uuid.uuid4().hex
    with serving(
        "-e", ALGORITHMS / "sleeps.py", "-i", '["misbehave"]', cwd=tmp_path, env={VARIABLE: tree}
    ) as program:
        program.wait_for_line("asleep")
        (warden,) = (one for one in program.family() if "warden" in one.cmdline())
        os.kill(program.pid, signal.SIGSTOP)
        warden.kill()
        os.kill(program.pid, signal.SIGKILL)
        wait_until(lambda: not living(tree), what="the end of all")
        program.wait()


def test_nothing_of_a_hostile_tree_outlives_its_crash(tmp_path: Path) -> None:
    tree = uuid.uuid4().hex
    run = run_tasks(
        "hostile_tree_that_dies.py", ["misbehave"], ["behave"], cwd=tmp_path, env={VARIABLE: tree}
    )
    assert not living(tree)
    code, message = error_of(run.tasks[0])
    assert (code, run.outputs[1], run.status) == ("KILLED_BY_SIGNAL", "served", 134)
    # 46 at least: the innermost of the nested sessions may not have begun yet.
    left = re.search(r"^(\d+) processes left by the algorithm ended with it: python", message, re.M)
    assert left is not None and 46 <= int(left[1]) <= 55


def test_a_warden_killed_by_its_algorithm_fails_one_task(tmp_path: Path) -> None:
    run = misbehave_once("shoots_the_warden.py", cwd=tmp_path)
    code, message = error_of(run.tasks[0])
    if code == "DENIED":
        # The kernel can keep signals inside the sandbox.
        assert "PermissionError" in message
    else:
        assert code == "RUNNER_ERROR" and "warden process was lost" in message
    assert run.status == 1


def test_daemons_left_behind_are_ended_with_the_run(tmp_path: Path) -> None:
    tree = uuid.uuid4().hex
    run = run_tasks("leaves_daemons.py", ["misbehave"], ["behave"], cwd=tmp_path, env={VARIABLE: tree})
    assert (run.status, run.outputs) == (0, ["served", "served"])
    assert not living(tree)


def test_a_resource_tracker_is_not_reported_as_left_by_the_algorithm(tmp_path: Path) -> None:
    run = run_tasks("leaves_a_resource_tracker.py", ["misbehave"], cwd=tmp_path)
    assert (run.status, run.outputs) == (0, ["served"])
    assert "1 process left by the algorithm ended with it: " in run.stderr


def test_a_program_that_keeps_the_output_open_blocks_nothing(tmp_path: Path) -> None:
    algorithm = "leaves_a_program_that_holds_its_output.py"
    run = misbehave_once(algorithm, cwd=tmp_path, deadline_s=30)  # it would hold it for 60 s
    assert run.status == 0


def test_a_pool_left_behind_is_ended_with_the_run(tmp_path: Path) -> None:
    run = run_tasks("leaves_a_pool.py", [1, 2], [3], cwd=tmp_path, args=("--grace", "1"))
    assert (run.status, run.outputs) == (0, [[1, 4], [9]])
