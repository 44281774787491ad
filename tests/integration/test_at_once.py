"""A small task for code without an init(): the worker gets `initialized` before the child has read it."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
from support.programs import Program
from support.served import serving_worker

MARK = "start.py child"


def child_of(program: Program) -> psutil.Process:
    (child,) = (one for one in program.family() if MARK in " ".join(one.cmdline()))
    return child


def test_initialized_does_not_wait_for_the_child(tmp_path: Path) -> None:
    with serving_worker(tmp_path, entry="adds.py") as (client, program):
        assert client.run([1, 2])["data"] == 3
        child = child_of(program)
        child.suspend()
        client.initialize([3, 4], taskId="t2")
        client.expect("initialized")
        client.start()
        child.resume()
        assert client.expect("done")["data"] == 7
        client.nothing_more()


def test_code_with_an_init_is_waited_for(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        assert client.run(["give", 1])["data"] == 1
        child = child_of(program)
        child.suspend()
        client.initialize(["give", 2], taskId="t2")
        client.nothing_more()
        child.resume()
        client.expect("initialized")
        client.start()
        assert client.expect("done")["data"] == 2


@pytest.mark.parametrize("state", [(), ("--no-state",)], ids=["records", "no-records"])
def test_a_stop_reaches_a_child_that_has_not_read_its_task(state: tuple[str, ...], tmp_path: Path) -> None:
    entry = "waits_for_each_stop.py"
    with serving_worker(tmp_path, *state, "--grace", "20", entry=entry) as (client, program):
        program.wait_for_line("loaded")
        child = child_of(program)
        for number in range(20):
            child.suspend()
            client.initialize([], taskId=f"t{number}")
            client.expect("initialized")
            client.start()
            client.stop()
            client.ping()  # both have arrived, and were passed on
            child.resume()  # its two threads hear of the task and of the stop in any order
            client.expect("stopped")
        assert "STOP_FORCED" not in "\n".join(program.stderr), program.report()


def test_a_task_whose_child_dies_before_it_has_begun_is_given_to_another(tmp_path: Path) -> None:
    with serving_worker(tmp_path, entry="adds.py") as (client, program):
        assert client.run([1, 2])["data"] == 3
        child = child_of(program)
        child.suspend()
        client.initialize([3, 4], taskId="t2")
        client.expect("initialized")
        child.send_signal(signal.SIGKILL)
        program.wait_for_line("before task")
        client.start()
        assert client.expect("done")["data"] == 7
        client.nothing_more()
        assert client.run([5, 6], taskId="t3")["data"] == 11


def test_an_input_that_cannot_be_read_is_an_answer_of_its_own(tmp_path: Path) -> None:
    with serving_worker(tmp_path, entry="adds.py") as (client, _):
        assert client.run([1, 2])["data"] == 3
        client.begin_with(b'{"command":"initialize","data":{"taskId":"t2","input":[NaN]}}')
        client.expect("initialized")
        told = client.expect("errorMessage")["error"]["message"]
        assert told.startswith("RUNNER_ERROR: the worker's initialize is no json")
        assert client.run([5, 6], taskId="t3")["data"] == 11
