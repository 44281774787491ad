"""Children that die at any moment, and how the supervisor reacts."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hkrunner.runner.console.event_sink import EventSink
from hkrunner.runner.protocol.task_state import State
from hkrunner.runner.serving.child_messages import PROBLEM_MAX
from hkrunner.runner.serving.streaming import PROBLEMS_MAX
from hkrunner.runner.serving.task_usage import WATCH_S
from hkrunner.sandbox.shared.limits import MI, Limits
from hkrunner.sandbox.shared.message_format import PROTOCOL_VERSION
from hkrunner.sandbox.shared.messages import (
    Failed,
    HeldBack,
    Initialized,
    Loaded,
    LoadFailed,
    Problem,
    Progress,
    TaskRead,
)
from hkrunner.sandbox.shared.outcome import Cause, Exit
from support.fake_serving import Serve
from support.fake_warden import SPAWNED, FakeWarden

# ---- output and messages, which come on different ways


def test_what_was_printed_before_a_message_is_heard_before_it(serve: Serve) -> None:
    heard: list[str] = []

    class Hearing(EventSink):
        def printed(self, stream: str, data: bytes) -> None:
            heard.append(data.decode())

        def emit(self, event: str, fields: Mapping[str, Any]) -> None:
            heard.append(event)

        def moved(self, before: State, after: State) -> None:
            heard.append(after.name)

    one = serve(methods=None, events=Hearing())
    one.child.unread = b"loading"
    one.child.loads("init", "start")
    one.initialize()
    one.start()
    one.child_reads()
    one.child.unread = b"init"
    one.child_initializes()
    one.child.unread = b"half"
    one.child.says(Progress(50, ""), one.number)
    order = ["loading", "loaded", "STARTING", "init", "RUNNING", "half", "progress"]
    assert [what for what in heard if what in order] == order


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_progress_that_json_cannot_express_is_none_in_the_events(value: float, serve: Serve) -> None:
    """A line of --output jsonl had NaN in it, which most readers of JSON refuse."""
    told: list[Mapping[str, Any]] = []

    class Hearing(EventSink):
        def emit(self, event: str, fields: Mapping[str, Any]) -> None:
            if event == "progress":
                told.append(fields)

    one = serve(events=Hearing())
    one.run_to(State.RUNNING)
    one.child.says(Progress(value), one.number)
    assert told == [{"progress": None, "details": None}]


# ---- children that die


@pytest.mark.parametrize(
    "state",
    [State.INITIALIZING, State.STARTING, State.INITIALIZED, State.RUNNING],
    ids=lambda one: one.name,
)
def test_a_task_whose_child_dies_is_answered_once(state: State, serve: Serve) -> None:
    one = serve()
    one.run_to(state)
    if state in (State.INITIALIZING, State.STARTING):
        one.child_reads()  # init() runs
    one.child.goes()
    assert one.commands.count("errorMessage") == 1 and "done" not in one.commands
    assert one.link.posted[-1]["error"]["code"] == "EXITED"
    assert one.state is State.IDLE and len(one.children) == 2, "the next child is on its way"


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("one_core", [False, True])
def test_a_child_that_has_not_said_yet_that_it_reads_its_task_is_replaced_too_when_it_dies(
    one_core: bool, is_killed: bool, serve: Serve
) -> None:
    one = serve(methods=("start",), one_core=one_core)
    one.initialize()
    one.start()
    assert one.state is State.RUNNING
    if is_killed:
        one.stop()
        one.after(6.0)
    one.children[0].goes()
    assert one.state is State.IDLE and len(one.children) == 2, "the next child is on its way"


@pytest.mark.parametrize("loads", [False, True])
def test_a_child_that_is_killed_for_a_stop_is_replaced_although_it_had_not_read_its_task(
    loads: bool, serve: Serve
) -> None:
    one = serve(methods=None)
    one.initialize()
    if loads:
        one.child.loads("init", "start")
    one.stop()
    one.after(5.1)
    one.children[0].goes()
    assert one.commands[-1] == "stopped" and len(one.children) == 2


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        (State.ANSWERED, "done"),
        (State.STOPPED, "stopped"),
        (State.STOPPING, "stopped"),
        (State.KILLING, "stopped"),
    ],
    ids=lambda one: getattr(one, "name", one),
)
def test_a_child_that_dies_at_the_end_of_its_task_changes_no_answer(
    state: State, answer: str, serve: Serve
) -> None:
    one = serve()
    one.run_to(state)
    one.children[0].goes()
    assert one.commands[-1] == answer and one.commands.count(answer) == 1
    assert one.state is State.IDLE and len(one.children) == 2


def test_a_child_whose_code_cannot_be_loaded_changes_no_answer_that_was_given(serve: Serve) -> None:
    one = serve()
    one.run_to(State.ANSWERED)
    one.child.says(LoadFailed("IMPORT_FAILED", "IMPORT_FAILED: no"))
    one.child.goes()
    assert one.commands[-1] == "done" and "errorMessage" not in one.commands
    assert one.state is State.IDLE


def test_a_child_that_dies_between_two_tasks_is_reported_and_replaced(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    one.child_answers()
    one.child.goes()
    assert one.output.shows("✘ between two tasks: EXITED") and len(one.children) == 2


def test_a_child_that_cannot_load_its_code_fails_the_task_and_is_not_started_over_and_over(
    serve: Serve,
) -> None:
    one = serve(methods=None)
    one.child.says(LoadFailed("IMPORT_FAILED", "IMPORT_FAILED: no"))
    assert [failure.code for failure in one.load_failures] == ["IMPORT_FAILED"]
    one.child.goes()
    assert len(one.children) == 1
    one.initialize()
    assert len(one.children) == 2
    one.child.says(LoadFailed("IMPORT_FAILED", "IMPORT_FAILED: no"))
    assert one.link.posted[-1]["error"]["code"] == "IMPORT_FAILED" and one.results[0].reason == "LoadError"
    one.child.goes()
    assert len(one.children) == 2 and one.state is State.IDLE


@pytest.mark.parametrize("was_refused", [True, False])
@pytest.mark.parametrize("in_a_task", [False, True])
@pytest.mark.parametrize("code", ["IMPORT_FAILED", "EXITED"])
def test_the_end_of_a_child_that_could_not_load_its_code_tells_whether_memory_was_refused(
    code: str, in_a_task: bool, was_refused: bool, serve: Serve
) -> None:
    one = serve(methods=None, limits=Limits(memory_bytes=64 * MI))
    if in_a_task:
        one.initialize()
    text = "sys.exit(1) ended the algorithm" if code == "EXITED" else "ImportError: cannot load the model"
    one.child.says(LoadFailed(code, f"{code}: {text}"))
    assert not one.load_failures and not one.results
    held = HeldBack(7, "python", 0, 60 * MI, 0.1) if was_refused else None
    one.child.goes(Exit(Cause.EXITED, code=0, peak_bytes=60 * MI, held_back=held, loaded=False))
    failure = one.results[0].failure if in_a_task else one.load_failures[0]
    assert failure is not None and failure.code == ("MEMORY_ERROR" if was_refused else code)
    assert ("limit 64 MiB (--mem), used 60 MiB. Try --mem 128Mi" in failure.message) is was_refused
    assert len(one.load_failures) + len(one.results) == 1 and one.state is State.IDLE


def test_the_reason_of_a_child_that_was_given_up_while_it_could_not_load_is_not_that_of_the_next_one(
    serve: Serve,
) -> None:
    one = serve(methods=None, limits=Limits(memory_bytes=64 * MI))
    one.initialize()
    one.child.says(LoadFailed("MEMORY_ERROR", "MEMORY_ERROR: loading"))
    one.initialize("t2")  # before that child has ended: it is given up
    one.child.loads("init", "start")
    one.child_reads()
    one.child.goes()
    failure = one.results[-1].failure
    assert failure is not None and failure.code == "EXITED" and "loading" not in failure.message


@pytest.mark.parametrize("was_refused", [True, False])
@pytest.mark.parametrize("ends_first", [True, False])
def test_of_a_task_that_calls_sys_exit_it_is_found_out_whether_memory_was_refused(
    was_refused: bool, ends_first: bool, serve: Serve
) -> None:
    one = serve(limits=Limits(memory_bytes=64 * MI))
    one.run_to(State.RUNNING)
    one.after(0.1)
    one.child.samples(answers=one.child.asked[0])
    one.child.says(Failed("EXITED", "EXITED: sys.exit(1) ended the algorithm", "", True), one.number)
    assert not one.results and len(one.child.asked) == 2
    at = time.monotonic() if was_refused else 0.0  # long before the task
    held = HeldBack(7, "python", 0, 60 * MI, 0.1, at, is_over=True)
    if ends_first:
        one.child.goes(Exit(Cause.EXITED, code=1, peak_bytes=60 * MI, held_back=held))
    else:
        one.child.samples(answers=one.child.asked[1], memory=60 * MI, held_back=held)
    failure = one.results[0].failure
    assert failure is not None and failure.code == ("MEMORY_ERROR" if was_refused else "EXITED")
    assert one.state is State.IDLE and one.commands[-1] == "errorMessage"
    one.initialize("t2")
    assert len(one.children) == 2


def test_a_task_that_calls_sys_exit_is_forgotten_when_the_worker_begins_another_one(serve: Serve) -> None:
    one = serve(limits=Limits(memory_bytes=64 * MI))
    one.run_to(State.RUNNING)
    one.after(0.1)
    one.child.samples(answers=one.child.asked[0])
    one.child.says(Failed("EXITED", "EXITED: sys.exit(1) ended the algorithm", "", True), one.number)
    one.initialize("t2")
    one.child.loads("init", "start")
    one.start()
    one.child_reads()
    one.child_initializes()
    one.child_answers()
    assert [result.status for result in one.results] == ["stopped", "succeed"] and one.state is State.IDLE


@pytest.mark.parametrize("methods", [("start",), ("init", "start")], ids=["no init", "init"])
@pytest.mark.parametrize("has_spare", [False, True], ids=["a new one", "the spare"])
@pytest.mark.parametrize("starts_before", [False, True], ids=["start after", "start before"])
def test_a_task_whose_child_dies_before_it_has_begun_goes_to_another(
    methods: tuple[str, ...], has_spare: bool, starts_before: bool, serve: Serve
) -> None:
    """The worker gets one `initialized`, and the child gets the task before its start."""
    one = serve(methods=methods, spare=has_spare)
    if has_spare:
        one.children[1].loads(*methods)
    one.initialize()
    one.children[0].goes()
    assert one.output.shows("✘ before task 1: EXITED")
    second = one.child
    assert second is one.children[1]
    if starts_before:
        one.start()
    if not second.loaded:
        second.loads(*methods)
    if second.kinds[0] == "Initialize" or "init" in methods:
        one.child_reads()
        one.child_initializes()
    if not starts_before:
        one.start()
    assert second.kinds[0] in ("Begin", "Initialize") and second.kinds[-1] == "Start"
    one.child_answers()
    assert one.commands == ["initialized", "started", "done"]


def test_a_task_that_has_not_begun_when_the_warden_is_lost_goes_to_another_child(serve: Serve) -> None:
    one = serve(methods=("init", "start"))
    one.initialize()
    one.children[0].goes(Exit(Cause.WARDEN_LOST, detail="it ended unexpectedly", loaded=True))
    one.children[1].loads("init", "start")
    one.child_reads()
    one.child_initializes()
    one.start()
    one.child_answers()
    assert one.commands == ["initialized", "started", "done"]


def test_a_start_that_came_before_the_second_child_was_ready_goes_after_the_task(serve: Serve) -> None:
    one = serve(methods=("init", "start"), spare=True)
    first, spare = one.children
    spare.loads("start")  # the code has changed meanwhile: nothing is left to be waited for
    one.initialize()
    one.start()
    first.goes()
    assert spare.kinds == ["BeginAndStart"] and one.commands == ["initialized", "started"]


def test_a_spare_that_takes_over_is_followed_by_the_next_spare(serve: Serve) -> None:
    one = serve(spare=True)
    for deaths in (1, 2, 3):
        one.children[deaths].loads("start")  # the spare, before it serves
        one.run_to(State.RUNNING)
        one.child.goes()
        assert one.child is one.children[deaths], "the spare serves"
        assert len(one.children) == deaths + 2, "the next spare is on its way"


def test_a_spare_that_dies_is_reported_and_replaced_once_before_the_next_task(serve: Serve) -> None:
    one = serve(spare=True)
    for death in (1, 2):
        one.children[death].loads("init", "start")
        one.children[death].goes()
        assert one.output.shows("✘ spare process: EXITED")
        assert len(one.children) == 3, "the second spare, and no third one"
    assert len([line for line in one.output.lines if "spare process" in line]) == 2
    one.run_to(State.RUNNING)
    one.child_answers()
    assert len(one.children) == 4 and one.child is one.children[0]
    one.children[3].loads("init", "start")
    one.child.goes()
    assert one.child is one.children[3], "the spare serves"


def test_a_spare_that_cannot_load_the_code_is_reported_and_not_started_over_and_over(serve: Serve) -> None:
    one = serve(spare=True)
    one.children[1].goes()
    assert one.output.shows("✘ spare process: EXITED") and len(one.children) == 2
    one.run_to(State.RUNNING)
    one.child_answers()
    assert len(one.children) == 3


def test_a_child_that_dies_without_ever_taking_up_a_task_is_started_again_for_the_next_one(
    serve: Serve,
) -> None:
    one = serve()
    one.child.goes()
    assert len(one.children) == 1
    one.initialize()
    assert len(one.children) == 2


def test_a_second_child_that_dies_too_early_ends_the_task_and_is_not_replaced(serve: Serve) -> None:
    one = serve()
    one.run_to(State.INITIALIZING)
    one.children[0].goes()
    one.children[1].loads("init", "start")
    one.children[1].goes()
    assert one.commands == ["errorMessage"] and one.state is State.IDLE
    assert len(one.children) == 2, "a third one would die like the two before it"
    one.initialize("t2")
    assert len(one.children) == 3


@pytest.mark.parametrize("cause", [Cause.MEMORY, Cause.START_TIMEOUT], ids=lambda one: one.name)
def test_a_child_that_was_killed_for_a_limit_gives_its_task_to_no_other(cause: Cause, serve: Serve) -> None:
    one = serve()
    one.run_to(State.INITIALIZING)
    one.child.goes(Exit(cause, limit_bytes=1))
    assert one.commands == ["errorMessage"]


@pytest.mark.parametrize("methods", [("start",), ("init", "start")], ids=lambda methods: methods[0])
def test_memory_that_an_earlier_task_has_kept_fails_no_task_that_has_not_begun(
    methods: tuple[str, ...], serve: Serve
) -> None:
    one = serve(methods=methods)
    one.run_to(State.RUNNING)
    one.child_fails("MEMORY_ERROR")
    one.initialize("t2")
    one.children[0].goes(Exit(Cause.MEMORY, limit_bytes=1, loaded=True))
    one.children[1].loads(*methods)
    assert one.output.shows("✘ before task 2: OUT_OF_MEMORY")
    assert one.commands.count("errorMessage") == 1 and one.state is not State.IDLE


def test_a_repeated_initialize_while_a_second_child_prepares_is_answered_when_that_is_ready(
    serve: Serve,
) -> None:
    one = serve(methods=("start",))
    one.initialize()
    one.children[0].goes()
    assert one.state is State.REINITIALIZING
    one.initialize()
    assert one.state is State.INITIALIZING and one.commands == ["initialized"]
    one.child.loads("start")
    one.child_reads()
    one.child_initializes()
    assert one.commands == ["initialized", "initialized"]


def test_a_task_for_which_the_system_has_no_process_is_answered(serve: Serve) -> None:
    one = serve()
    one.child.goes()
    one.refuses_children = True
    one.initialize()
    one.turn()
    error = one.link.posted[-1]["error"]
    assert error["code"] == "RUNNER_ERROR" and "Resource temporarily unavailable" in error["message"]
    one.refuses_children = False
    one.initialize("t2")
    assert one.state is State.INITIALIZING and one.child.kinds == ["Initialize"]


def test_a_process_that_could_not_be_started_for_one_task_does_not_end_the_next(serve: Serve) -> None:
    one = serve()
    one.child.goes()
    one.refuses_children = True
    one.initialize()
    one.refuses_children = False
    one.initialize("t2")
    one.turn()
    assert one.state is State.INITIALIZING and "errorMessage" not in one.commands


def test_a_child_is_replaced_after_the_tasks_that_were_asked_for(serve: Serve) -> None:
    one = serve(methods=("start",), recycle_after=2)
    for name in ("t1", "t2"):
        assert len(one.children) == 1
        one.initialize(name)
        one.start()
        one.child_answers()
    old, new = one.children
    assert old.exits == [{"exitCode": 0}] and new.kill_cause is None
    old.goes(Exit(Cause.EXITED, code=0))
    assert one.state is State.IDLE


def test_without_limits_the_warden_samples_only_while_a_task_lasts_and_a_second_more(serve: Serve) -> None:
    one = serve(methods=("start",))
    one.initialize()
    one.start()
    one.after(WATCH_S)
    assert one.child.asked, "the question has it sample"
    one.after(3.0)
    one.child_answers()
    one.child.samples(answers=one.child.asked[-1])
    for name in ("t2", "t3"):
        assert one.child.idle == []
        one.initialize(name)
        one.start()
        one.child_answers()
        one.after(0.6)
    assert one.child.idle == [True], "brief tasks do not keep it awake"
    one.initialize("t4")
    assert one.child.idle == [True]


def test_the_warden_of_a_memory_limit_samples_until_a_second_after_the_last_task_and_again_at_the_next(
    serve: Serve,
) -> None:
    one = serve(methods=("start",), limits=Limits(memory_bytes=64 * MI))
    one.initialize()
    one.start()
    one.child_answers()
    one.after(0.9)
    assert one.child.idle == []
    one.after(0.2)
    assert one.child.idle == [True]
    one.initialize("t2")
    assert one.child.idle == [True, False]


# ---- the order of the lifeline and the task socket


def test_limits_are_reported_and_usage_is_of_the_child_although_loaded_was_readable_first(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing orders the warden's Spawned and the child's Loaded: they come over two sockets."""
    warden = FakeWarden(monkeypatch)

    def attach(listener: Any) -> Any:
        warden.child.set_listener(listener)
        return warden.child

    one = serve(methods=None, child=attach, loop=warden.loop, clock=warden.clock)
    try:
        warden.answer(0, Loaded(PROTOCOL_VERSION, ["start"], "3.11", {}))
        warden.turn()
        one.initialize()
        warden.turn()
        assert one.output.lines == [] and not warden.child.loaded
        warden.say(SPAWNED)
        warden.turn()
        assert one.output.shows("● limits: none")
        assert one.output.shows("loaded: start")
        warden.answer(1, TaskRead({"taskId": "t1", "jobId": "j"}), Initialized())
        warden.turn()
        task = one.supervisor._control.task
        assert task is not None and task.usage is not None and task.protection == SPAWNED.protection
        assert task.usage._child.pid == SPAWNED.pid
    finally:
        warden.child.set_listener(warden.seen)
        warden.close()


def test_a_flood_of_problems_that_the_code_reports_itself_takes_no_memory(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    for _ in range(100):
        one.child.says(Problem("x" * 200_000))
    task = one.supervisor._control.task
    assert task is not None and sum(map(len, task.problems)) <= PROBLEM_MAX * PROBLEMS_MAX
