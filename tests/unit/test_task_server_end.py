"""How the child stops a task, and ends."""

from __future__ import annotations

from typing import Any

import pytest
from hkrunner.sandbox.shared.messages import (
    Begin,
    EndProcess,
    Loaded,
    Problem,
    Progress,
    Start,
    StopReturned,
    StopTask,
)
from support.child_process import ECHO, StartChild, done, one_task, wire

WAITS = """
def start(args, api):
    api.progress(1)
    api.wait_for_stop(20)
    return "stopped"
def stop(data):
    print("stop", data)
"""


def test_a_stop_reaches_the_algorithm_while_it_runs(serving_child: StartChild) -> None:
    child = serving_child(WAITS)
    child.say(1, Begin(wire()), Start())
    assert child.next() == (1, Progress(1.0))
    child.say_to_control(1, StopTask({"forceStop": False}))
    # In either order: they come from two threads.
    assert {repr(child.next()), repr(child.next())} == {repr((1, StopReturned())), repr((1, done("stopped")))}
    assert child.output == "stop {'forceStop': False}\n"


def test_a_stop_that_raises_is_reported(serving_child: StartChild) -> None:
    child = serving_child(
        "def start(args, api):\n    api.progress(1)\n    api.wait_for_stop(20)\ndef stop(): 1 / 0\n"
    )
    child.say(1, Begin(wire()), Start())
    child.next()
    child.say_to_control(1, StopTask({}))
    said = {type(one[1]): one[1] for one in (child.next(), child.next()) if one is not None}
    assert "ZeroDivisionError: division by zero in stop()" in getattr(said[StopReturned], "error", "")


def test_a_stop_that_begins_while_another_is_waited_for_has_ended_before_the_answer(
    serving_child: StartChild,
) -> None:
    child = serving_child("""
import threading
has_begun = threading.Event()
def start(args, api):
    global progress
    progress = api.progress
    progress(100)
    api.wait_for_stop(20)
def stop(data):
    if data["number"] == 1:
        progress(100)
        has_begun.wait(20)
    else:
        has_begun.set()
        print(sum(range(2_000_000)))
""")
    child.say(1, Begin(wire()), Start())
    child.next()
    child.say_to_control(1, StopTask({"number": 1}))
    assert child.next() == (1, Progress(100.0))
    child.say_to_control(1, StopTask({"number": 2}))
    said: list[object] = []
    while done(None) not in said:
        said.append((child.next() or (0, None))[1])
    assert said.count(StopReturned()) == 2
    assert child.output == "1999999000000\n"


def test_the_end_that_is_asked_for_while_stop_runs_calls_it_no_second_time(
    serving_child: StartChild,
) -> None:
    child = serving_child("""
import threading
is_ending = threading.Event()
def start(args, api):
    global progress
    progress = api.progress
    progress(100)
    api.wait_for_stop(20)
def stop(data):
    print(data)
    if data["number"] == 1:
        progress(100)
        is_ending.wait(20)
    is_ending.set()
def exit(data): print("exit")
""")
    child.say(1, Begin(wire()), Start())
    child.next()
    child.say_to_control(1, StopTask({"number": 1}))
    assert child.next() == (1, Progress(100.0))
    child.tasks.shutdown(1)  # SHUT_WR: no more tasks
    child.say_to_control(0, EndProcess({}))
    child.say_to_control(1, StopTask({"number": 2}))  # once this is obeyed, the one before was read
    assert child.status() == 0
    assert child.output == "{'number': 1}\n{'number': 2}\nexit\n"


@pytest.mark.parametrize("error", ["RuntimeError('none is left')", "MemoryError()"])
def test_a_stop_for_which_there_is_no_thread_is_reported_and_reaches_the_task(
    serving_child: StartChild, error: str
) -> None:
    child = serving_child(f"""
import threading
def start(args, api):
    def refuse(thread):
        raise {error}
    threading.Thread.start = refuse
    api.progress(1)
    return api.wait_for_stop(20)
def stop(): 1 / 0
""")
    child.say(1, Begin(wire()), Start())
    child.next()
    child.say_to_control(1, StopTask({}))
    said = {type(one[1]): one[1] for one in (child.next(), child.next()) if one is not None}
    told = getattr(said.pop(StopReturned), "error", "")
    assert told.startswith("no thread could be started for it: ") and not told.endswith(": ")
    assert list(said.values()) == [done(True)]
    assert child.output == ""


def test_a_stop_that_came_before_its_task_stops_it_once_it_is_read(serving_child: StartChild) -> None:
    child = serving_child(
        "def start(args, api):\n    return [args['input'], api.wait_for_stop(args['input'])]\n"
    )
    child.say_to_control(2, StopTask({}))
    # A task before it does not take it, and it stays that of its own task.
    assert one_task(child, 1, 0) == done([0, False])
    child.say(2, Begin(wire(20)), Start())
    assert {repr(child.next()), repr(child.next())} == {
        repr((2, StopReturned())),
        repr((2, done([20, True]))),
    }


def test_a_stop_cancels_an_algorithm_that_is_a_coroutine(serving_child: StartChild) -> None:
    child = serving_child(
        "import asyncio\nasync def start(args, api):\n    api.progress(1)\n    await asyncio.sleep(20)\n"
    )
    child.say(1, Begin(wire()), Start())
    child.next()
    child.say_to_control(1, StopTask({}))
    assert {repr(child.next()), repr(child.next())} == {repr((1, StopReturned())), repr((1, done(None)))}


@pytest.mark.parametrize(
    ("code", "options", "status"),
    [
        ("", {"exitCode": 5}, 5),
        ("def exit(data): print('bye', data)", {"exitCode": 0}, 0),
        ("import sys\ndef exit(data): sys.exit(9)", {"exitCode": 4}, 4),
        ("", {"exitCode": "odd"}, 0),
    ],
    ids=["no exit", "exit", "exit that exits", "no number"],
)
def test_the_process_ends_as_the_worker_asked(
    serving_child: StartChild, code: str, options: dict[str, Any], status: int
) -> None:
    child = serving_child(f"{ECHO}\n{code}\n")
    child.say_to_control(0, EndProcess(options))
    child.tasks.shutdown(1)  # SHUT_WR: no more tasks
    assert child.status() == status
    assert child.output == (f"bye {options}\n" if "bye" in code else "")


def test_an_exit_that_raises_is_reported_and_ends_the_process_all_the_same(serving_child: StartChild) -> None:
    child = serving_child(f"{ECHO}\ndef exit(data): 1 / 0\n")
    child.say_to_control(0, EndProcess({"exitCode": 6}))
    child.tasks.shutdown(1)
    said = child.next()
    assert said is not None and isinstance(said[1], Problem)
    assert "ZeroDivisionError: division by zero in exit()" in said[1].text
    assert child.status() == 6


def test_the_end_stops_the_task_that_runs(serving_child: StartChild) -> None:
    child = serving_child(WAITS)
    child.say(1, Begin(wire()), Start())
    child.next()
    child.say_to_control(0, EndProcess({"exitCode": 3}))
    child.tasks.shutdown(1)
    assert {repr(child.next()), repr(child.next())} == {repr((1, StopReturned())), repr((1, done("stopped")))}
    assert child.status() == 3


def test_the_loaded_message_is_the_first_of_all(start_child: StartChild) -> None:
    child = start_child("import sys\nsys.stdout.write('printed while it loads')\n" + ECHO)
    said = child.next()
    assert said is not None and isinstance(said[1], Loaded)
    assert child.output == "printed while it loads", "output is flushed before the message"
