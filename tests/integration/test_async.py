"""Async algorithms: one event loop for the whole life of the process, whatever is awaited on it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from support.local import ALGORITHMS, run_tasks
from support.programs import run_hkrunner, serving
from support.served import serving_worker

MODES: list[list[str]] = [[], ["--in-process"]]


def outputs_of(algorithm: str, *inputs: list[Any], mode: list[str], folder: Path) -> tuple[list[Any], str]:
    """Return the results of the tasks, and the messages on stderr."""
    given = [word for one in inputs for word in ("-i", json.dumps(one))]
    ended = run_hkrunner("--no-state", *mode, "-e", ALGORITHMS / f"{algorithm}.py", *given, cwd=folder)
    assert ended.status == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr


@pytest.mark.parametrize("mode", MODES, ids=["in a child", "in process"])
def test_what_init_and_an_earlier_task_made_can_be_used(mode: list[str], tmp_path: Path) -> None:
    outputs, said = outputs_of("async_keeps_what_it_made", ["a"], ["b"], ["c"], mode=mode, folder=tmp_path)
    assert outputs == [["a", "HELLO", False], ["b", "HELLO", False], ["c", "HELLO", False]]
    assert "exit has the lock" in said
    assert "Traceback" not in said and "never retrieved" not in said and "pending" not in said


AWAITABLE = {
    "object": 4,
    "generator": 4,
    "partial": 8,
    "callable": 8,
    "nested": 4,
    "task": 8,
    "future": 4,
    "ensured": 8,
}


def test_whatever_can_be_awaited_is_awaited(tmp_path: Path) -> None:
    inputs = [[way, 4] for way in AWAITABLE]
    outputs, said = outputs_of("gives_what_can_be_awaited", *inputs, mode=[], folder=tmp_path)
    assert outputs == list(AWAITABLE.values())
    assert "exit is awaited" in said


@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        (
            "async generator",
            "RESULT_INVALID: start() in gives_what_can_be_awaited.py gives an async generator: "
            "have it return a list, [one async for one in …]",
        ),
        (
            "other loop",
            "ALGORITHM_ERROR: RuntimeError: a Future of another event loop cannot be awaited: "
            "make it in a coroutine, or await it there and return the value",
        ),
    ],
)
def test_what_cannot_be_awaited_is_reported(way: str, sentence: str, tmp_path: Path) -> None:
    run = run_tasks("gives_what_can_be_awaited.py", [way, 4], ["object", 4], cwd=tmp_path)
    assert sentence in run.stderr
    assert run.outputs[-1] == 4, "the next task is served"


@pytest.mark.parametrize("algorithm", ["async_init_yields.py", "init_yields.py"])
def test_an_init_that_is_a_generator_fails_the_task(algorithm: str, tmp_path: Path) -> None:
    run = run_tasks(algorithm, [1], cwd=tmp_path)
    assert f"TypeError: init() in {algorithm} has a yield, so nothing of it was run: take the yield out" in (
        run.stderr
    )


@pytest.mark.parametrize("how", ["async", "own run", "asyncio.run", "plain"])
def test_an_async_stop_runs_on_the_loop_of_start(how: str, tmp_path: Path) -> None:
    entry = ALGORITHMS / "stops_asynchronously.py"
    with serving("-e", entry, "-i", json.dumps([how]), "--grace", "60", cwd=tmp_path) as program:
        program.wait_for_line("at work")
        program.send_signal(signal.SIGTERM)
        program.wait(deadline_s=30)
    assert program.status == 143, program.report()
    said = "\n".join(program.stderr)
    assert "stop had the lock" in said and "start saw the event" in said, program.report()


@pytest.mark.parametrize("mode", MODES, ids=["in a child", "in process"])
def test_plain_functions_may_run_loops_of_their_own(mode: list[str], tmp_path: Path) -> None:
    ways = ["take", "run", "take", "new loop", "take", "get_event_loop", "take"]
    expected = ["from init", "run", "from init", "new loop", "from init", "from init", "from init"]
    outputs, _ = outputs_of("has_loops_of_its_own", *([one] for one in ways), mode=mode, folder=tmp_path)
    assert outputs == expected


@pytest.mark.parametrize("way", ["set", "not set"])
def test_the_loop_is_the_one_of_the_users_policy(way: str, tmp_path: Path) -> None:
    outputs, _ = outputs_of("sets_a_loop_policy", [way], [way], mode=[], folder=tmp_path)
    assert outputs == [["Loop", True]] * 2


def test_an_asyncio_task_left_behind_that_fails_between_two_tasks_is_reported(tmp_path: Path) -> None:
    with serving_worker(tmp_path, entry=ALGORITHMS / "leaves_asyncio_tasks.py") as (client, program):
        assert client.run(["fails"])["data"] == "fails"
        line = program.wait_for_line("the heartbeat is lost")
        assert "(fails), which was left running, failed: ALGORITHM_ERROR: ValueError" in line


def test_an_asyncio_task_left_behind_that_a_later_task_awaits_is_reported_once(tmp_path: Path) -> None:
    outputs, said = outputs_of("leaves_asyncio_tasks", ["fails"], ["await"], mode=[], folder=tmp_path)
    assert outputs == ["fails", "awaited: the heartbeat is lost"]
    assert said.count("heartbeat") <= 1  # between the two it may have failed while no task awaited it


def test_asyncio_tasks_left_behind_are_cancelled_at_the_end_and_reported_if_they_fail(tmp_path: Path) -> None:
    inputs = [["cleans_up"], ["fails_when_cancelled"], ["goes_on"]]
    outputs, said = outputs_of("leaves_asyncio_tasks", *inputs, mode=[], folder=tmp_path)
    assert outputs == ["cleans_up", "fails_when_cancelled", "goes_on"]
    assert "cleaned up" in said
    assert (
        "(fails_when_cancelled), which was left running, failed: ALGORITHM_ERROR: OSError: the socket" in said
    )
    assert "(goes_on) was cancelled at the end, and goes on" in said


def test_asyncio_tasks_left_behind_are_cancelled_when_start_exits(tmp_path: Path) -> None:
    run = run_tasks("leaves_asyncio_tasks.py", ["cleans_up", "exit"], cwd=tmp_path)
    assert "cleaned up" in run.stderr and "EXITED" in run.stderr


def test_a_loop_whose_descriptors_were_closed_is_replaced(tmp_path: Path) -> None:
    inputs = ["-i", '["now"]', "-i", '["later"]', "-i", '["next"]', "-i", '["last"]']
    ended = run_hkrunner("--no-state", "-e", ALGORITHMS / "breaks_its_loop.py", *inputs, cwd=tmp_path)
    assert "task t1 failed: ALGORITHM_ERROR: OSError: [Errno 9] Bad file descriptor" in ended.stderr
    assert [json.loads(line) for line in ended.stdout.splitlines()] == [["later"], ["next"], ["last"]]
