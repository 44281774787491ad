"""The supervisor, with a recording link, children that say what the test says, and a clock that it turns."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hkrunner.boards.runs.store import Store
from hkrunner.runner.protocol.task_state import State
from hkrunner.runner.serving.task_handover import Handover, choose
from hkrunner.sandbox.shared.channel import seal
from hkrunner.sandbox.shared.message_format import PROTOCOL_VERSION, Memfd
from hkrunner.sandbox.shared.messages import (
    ApiCall,
    Begin,
    Done,
    Initialized,
    Loaded,
    LoadFailed,
    Problem,
    Progress,
    TaskRead,
)
from hkrunner.sandbox.shared.outcome import Cause, Exit
from support.fake_serving import FakeServing
from support.fake_warden import SPAWNED, FakeWarden

Make = Callable[..., FakeServing]
#: Too large for its names to be found here.
LARGE = 9000


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[FakeServing] = []

    def serve(**more: Any) -> FakeServing:
        made.append(FakeServing(monkeypatch, **more))
        return made[-1]

    yield serve
    for one in made:
        one.close()


def blob_of(text: bytes) -> Memfd:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, text)
    seal(fd)
    return Memfd(fd, len(text))


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# ---- the four ways to a child


@pytest.mark.parametrize("bits", list(itertools.product((False, True), repeat=3)), ids=str)
def test_the_quickest_way_is_chosen_that_what_is_known_allows(bits: tuple[bool, bool, bool]) -> None:
    is_named, needs_no_init, waits_for_start = bits
    way = choose(is_named=is_named, needs_no_init=needs_no_init, waits_for_start=waits_for_start)
    if not is_named:
        assert way is Handover.CHILD_NAMES_IT
    elif not needs_no_init:
        assert way is Handover.NAMED_AHEAD
    else:
        assert way is (Handover.WITH_START if waits_for_start else Handover.AT_ONCE)


def test_a_task_whose_names_the_child_has_to_find_gets_its_folder_when_they_are_there(make: Make) -> None:
    one = make()
    one.initialize(size=LARGE)
    assert one.child.kinds == ["Initialize"]
    one.child_reads()
    assert one.child.kinds == ["Initialize", "UseFolder"]
    one.child_initializes()
    one.start()
    one.child_answers()
    assert one.commands == ["initialized", "started", "done"]
    assert [result.task for result in one.results] == ["t1"]


def test_a_named_task_goes_with_its_folder_and_init_is_waited_for(make: Make) -> None:
    one = make()
    one.initialize()
    assert one.child.kinds == ["Begin"] and one.commands == []
    one.child_reads()
    one.child_initializes()
    assert one.child.kinds == ["Begin"] and one.commands == ["initialized"]


def test_without_an_init_the_worker_is_told_before_the_child_has_the_task(make: Make) -> None:
    one = make(methods=("start",))
    one.initialize()
    assert one.child.kinds == ["Begin"] and one.commands == ["initialized"]
    begin = one.child.sent[0][1]
    assert isinstance(begin, Begin) and begin.is_announced
    one.start()
    one.child_answers()
    assert one.commands == ["initialized", "started", "done"]


def test_on_one_core_the_task_goes_to_the_child_together_with_its_start(make: Make) -> None:
    one = make(methods=("start",), one_core=True)
    one.initialize()
    assert one.child.kinds == [] and one.commands == ["initialized"]
    one.start()
    assert one.child.kinds == ["Begin", "Start"]


@pytest.mark.parametrize("asked", ["stop", "exit", "initialize"])
def test_a_task_that_waits_for_its_start_goes_to_the_child_when_there_will_be_none(
    asked: str, make: Make
) -> None:
    one = make(methods=("start",), one_core=True)
    one.initialize()
    getattr(one, asked)(*(("t2",) if asked == "initialize" else ()))
    assert one.child.sent[0][0] == 1 and one.child.kinds == ["Begin"]


@pytest.mark.parametrize("what", ["unread", "unkillable"])
def test_a_child_that_may_not_be_waiting_is_waited_for(what: str, make: Make) -> None:
    one = make(methods=("start",))
    one.child.is_quiet = what != "unread"
    one.child.may_kill = what != "unkillable"
    one.initialize()
    assert one.child.kinds == ["Begin"] and one.commands == []
    begin = one.child.sent[0][1]
    assert isinstance(begin, Begin) and not begin.is_announced


def test_a_task_that_comes_while_the_code_loads_is_handed_over_at_once(make: Make) -> None:
    one = make(methods=None)
    one.initialize()
    assert one.child.kinds == ["Initialize"]
    one.child.loads("start")
    one.child_reads()
    one.child_initializes()
    assert one.commands == ["initialized"]


def test_a_start_that_comes_before_initialized_is_passed_on_when_the_child_is_ready(make: Make) -> None:
    one = make()
    one.run_to(State.STARTING)
    one.start()
    assert one.commands == [] and one.child.kinds == ["Begin"]
    one.child_reads()
    one.child_initializes()
    assert one.commands == ["initialized", "started"] and one.child.kinds == ["Begin", "Start"]


def test_many_tasks_are_answered_once_each_by_one_child(make: Make) -> None:
    one = make(methods=("start",))
    for number in range(5):
        one.initialize(f"t{number}")
        one.start()
        one.child_answers(number)
    assert one.commands == ["initialized", "started", "done"] * 5
    assert [message["data"] for message in one.link.posted if message["command"] == "done"] == [0, 1, 2, 3, 4]
    assert len(one.children) == 1


def test_a_task_without_a_name_gets_one(make: Make) -> None:
    one = make(methods=("start",))
    one.initialize(None)
    one.start()
    one.child_answers()
    (result,) = one.results
    assert (result.task, result.pipeline, result.node) == ("task-1", "local", "main")


def test_what_is_said_of_a_task_that_is_over_is_dropped_and_its_memory_closed(make: Make) -> None:
    one = make(methods=("start",))
    one.initialize("t1")
    one.start()
    one.child_answers(1)
    one.initialize("t2")
    one.start()
    late = blob_of(b'{"command":"done","data":1}')
    one.child.says(Done(late), 1)
    one.child.says(ApiCall(b'{"command":"late"}'), 1)
    assert one.commands.count("done") == 1 and "late" not in one.commands
    assert not is_open(late.fd)


# ---- the end of a task


def test_a_large_answer_is_read_out_of_the_childs_memory(make: Make) -> None:
    one = make()
    one.run_to(State.RUNNING)
    answer = blob_of(b'{"command":"done","data":[1]}')
    one.child.says(Done(answer), 1)
    assert one.link.posted[-1] == {"command": "done", "data": [1]}
    assert not is_open(answer.fd)


def test_memory_that_the_child_could_shorten_is_no_answer(make: Make) -> None:
    one = make()
    one.run_to(State.RUNNING)
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    one.child.says(Done(Memfd(fd, 10)), 1)
    assert one.commands[-1] == "errorMessage"
    assert "not sealed" in one.link.posted[-1]["error"]["message"]
    assert not is_open(fd)


def test_a_task_that_lasted_is_answered_when_its_final_usage_is_there(make: Make) -> None:
    one = make()
    one.run_to(State.ANSWERED)
    assert one.commands == ["initialized", "started"]
    one.child.samples(memory=10_000)
    assert one.state is State.ANSWERED
    one.child.samples(answers=one.child.asked[-1], memory=20_000)
    assert one.commands[-1] == "done" and one.results[0].peak_bytes == 20_000


def test_a_final_usage_that_does_not_come_is_not_waited_for(make: Make) -> None:
    one = make()
    one.run_to(State.ANSWERED)
    one.after(0.3)
    assert one.commands[-1] == "done" and one.state is State.IDLE
    one.child.samples(answers=one.child.asked[-1])
    one.after(1.0)
    assert one.commands.count("done") == 1


def test_the_first_of_two_answers_counts(make: Make) -> None:
    one = make()
    one.run_to(State.ANSWERED)
    second = blob_of(b'{"command":"done","data":2}')
    one.child.says(Done(second), 1)
    one.child_fails()
    one.after(0.3)
    assert one.link.posted[-1] == {"command": "done", "data": 1} and one.commands.count("done") == 1
    assert not is_open(second.fd)


def test_a_failure_is_answered_and_the_child_serves_on(make: Make) -> None:
    one = make()
    one.run_to(State.RUNNING)
    one.child_fails()
    assert one.link.posted[-1]["error"]["code"] == "ALGORITHM_ERROR"
    one.initialize("t2")
    assert len(one.children) == 1 and one.child.sent[-1][0] == 2


def test_a_child_that_exits_in_its_task_is_answered_at_once_and_the_next_task_has_a_new_one(
    make: Make,
) -> None:
    one = make()
    one.run_to(State.RUNNING)
    one.child_fails(ends=True)
    assert one.commands[-1] == "errorMessage"
    one.initialize("t2")
    assert len(one.children) == 2
    one.children[0].goes()
    assert one.state is State.INITIALIZING and one.children[0].kill_cause is None


def test_a_child_that_says_it_ends_and_does_not_is_killed_after_the_grace(make: Make) -> None:
    one = make()
    one.run_to(State.RUNNING)
    one.child_fails(ends=True)
    one.after(5.1)
    assert one.child.kill_cause is Cause.STOPPED


def test_a_problem_is_kept_with_the_task_and_shown_where_there_is_none(make: Make) -> None:
    one = make()
    one.child.says(Problem("no disk"))
    assert one.output.shows("✘ no disk")
    one.run_to(State.RUNNING)
    one.child.says(Problem("output.json was not kept"), 1)
    one.child_answers()
    assert one.results[0].problems == ["output.json was not kept"]


def test_progress_reaches_the_worker_while_the_task_runs_only(make: Make) -> None:
    one = make()
    one.run_to(State.RUNNING)
    one.child.says(Progress(50.0, "half"), 1)
    assert one.link.posted[-1] == {"command": "progress", "data": {"progress": 50.0, "details": "half"}}
    one.stop()
    one.child.says(Progress(60.0), 1)
    assert one.commands.count("progress") == 1


# ---- stop


def test_a_stop_that_is_obeyed_is_answered_once(make: Make) -> None:
    one = make()
    one.run_to(State.STOPPING)
    assert one.child.stops == [(1, {"forceStop": True})]
    one.stop()
    one.child_has_stopped()
    one.child_answers()
    assert one.commands == ["initialized", "started", "stopped"] and one.child.kill_cause is None
    one.after(10.0)
    assert one.child.kill_cause is None, "the grace is over with the stop"
    assert (one.results[0].status, one.results[0].failure) == ("stopped", None)


def test_a_stop_that_is_not_obeyed_ends_in_a_kill_and_one_stopped(make: Make) -> None:
    one = make()
    one.run_to(State.STOPPING)
    one.after(4.9)
    assert one.child.kill_cause is None
    one.after(0.2)
    assert one.child.kill_cause is Cause.STOPPED and one.prepared == 1
    one.children[0].goes()
    assert one.commands.count("stopped") == 1 and "done" not in one.commands
    failure = one.results[0].failure
    assert failure is not None and failure.code == "STOP_FORCED"
    assert one.state is State.IDLE and len(one.children) == 2, "the next child is on its way"


def test_what_a_child_says_while_it_is_killed_is_not_heard(make: Make) -> None:
    one = make()
    one.run_to(State.KILLING)
    one.child_answers()
    assert "done" not in one.commands and "stopped" not in one.commands
    assert one.state is State.KILLING


def test_a_stop_before_start_leaves_the_child_to_the_next_task(make: Make) -> None:
    one = make()
    one.run_to(State.INITIALIZED)
    one.stop()
    assert one.commands == ["initialized", "stopped"] and one.child.stops == []
    one.initialize("t2")
    assert len(one.children) == 1 and one.child.sent[-1][0] == 2


def test_a_stop_in_init_is_answered_when_init_returns(make: Make) -> None:
    one = make()
    one.run_to(State.INITIALIZING)
    one.stop()
    one.child_reads()
    one.child_initializes()
    assert one.commands == ["stopped"] and one.state is State.IDLE


@pytest.mark.parametrize("state", [State.IDLE, State.ANSWERED], ids=lambda one: one.name)
def test_a_stop_that_crosses_the_answer_gets_its_stopped(state: State, make: Make) -> None:
    one = make()
    one.run_to(State.ANSWERED)
    if state is State.IDLE:
        one.after(0.3)
    one.stop()
    assert one.commands[-1] == "stopped" and one.commands.count("stopped") == 1
    assert one.state is State.IDLE


def test_a_stop_of_a_task_that_lasted_is_answered_with_its_usage(make: Make) -> None:
    one = make()
    one.run_to(State.STOPPED)
    one.child.samples(answers=one.child.asked[-1], memory=30_000)
    assert one.commands[-1] == "stopped" and one.results[0].peak_bytes == 30_000


def test_what_stop_raises_is_shown(make: Make) -> None:
    one = make()
    one.run_to(State.STOPPING)
    one.child_has_stopped("OSError: the camera is gone")
    assert one.output.shows("✘ stop() of task t1 failed: OSError: the camera is gone")


# ---- signs of life


@pytest.mark.parametrize(
    ("state", "sign"),
    [
        (State.INITIALIZED, "alive"),
        (State.RUNNING, "alive"),
        (State.STOPPING, "stopping"),
    ],
    ids=lambda one: getattr(one, "name", one),
)
def test_a_sign_of_life_is_given_every_four_seconds(state: State, sign: str, make: Make) -> None:
    one = make(grace_s=60.0)
    one.run_to(state)
    count = len(one.commands)
    one.after(3.9)
    assert one.commands[count:] == []
    one.after(0.2)
    assert one.commands[count:] == [sign]
    one.after(4.0)
    assert one.commands[count:] == [sign, sign]
    one.link.is_open = False
    one.after(4.0)
    one.link.is_open = True
    assert one.commands[count:] == [sign, sign]
    one.child_fails()
    one.after(8.0)
    assert sign not in one.commands[count + 2 :]


@pytest.mark.parametrize("state", [State.INITIALIZING, State.IDLE], ids=lambda one: one.name)
def test_no_sign_is_given_where_the_worker_takes_none(state: State, make: Make) -> None:
    one = make()
    one.run_to(state)
    one.after(9.0)
    assert one.commands == []


# ---- the worker moves on, repeats itself, asks odd things


@pytest.mark.parametrize(
    "state",
    [State.INITIALIZING, State.STARTING, State.RUNNING, State.STOPPING, State.KILLING],
    ids=lambda one: one.name,
)
def test_a_child_that_works_on_an_old_task_is_replaced_when_the_worker_begins_another(
    state: State, make: Make
) -> None:
    one = make()
    one.run_to(state)
    clears, count = one.link.clears, len(one.commands)
    one.initialize("t2")
    old, new = one.children
    assert old.kill_cause in (Cause.REPLACED, Cause.STOPPED) and new.kinds == ["Initialize"]
    assert one.link.clears == clears + 1, "no answer of the old task may still go out"
    assert [result.status for result in one.results] == ["stopped"]
    one_before = one.state
    old.says(Done(b'{"command":"done","data":1}'), 1)
    old.goes()
    assert one.commands[count:] == [] and one.state is one_before is State.INITIALIZING
    one.after(5.1)
    assert new.kill_cause is None, "the grace of the old task is over with it"


@pytest.mark.parametrize(
    "state", [State.INITIALIZED, State.ANSWERED, State.STOPPED], ids=lambda one: one.name
)
def test_a_child_that_has_nothing_to_do_takes_the_next_task_itself(state: State, make: Make) -> None:
    one = make()
    one.run_to(state)
    count = len(one.commands)
    one.initialize("t2")
    assert len(one.children) == 1 and one.child.kill_cause is None
    assert one.child.sent[-1][0] == 2 and one.commands[count:] == []
    one.after(0.3)
    assert one.commands[count:] == [], "no answer of the old task goes into the new one"


@pytest.mark.parametrize("state", [State.INITIALIZING, State.RUNNING], ids=lambda one: one.name)
def test_a_repeated_initialize_does_not_run_the_task_twice(state: State, make: Make) -> None:
    one = make()
    one.run_to(state)
    sent, commands = len(one.child.sent), one.commands
    one.initialize()
    assert len(one.child.sent) == sent and one.commands == commands and one.state is state


def test_a_repeated_initialize_of_an_initialized_task_is_answered_again(make: Make) -> None:
    one = make()
    one.run_to(State.INITIALIZED)
    clears = one.link.clears
    one.initialize()
    assert one.commands == ["initialized", "initialized"] and one.link.clears == clears + 1
    assert one.state is State.INITIALIZED


def test_a_task_of_the_same_name_in_another_job_is_another_task(make: Make) -> None:
    one = make()
    one.run_to(State.RUNNING)
    one.initialize(job="another")
    assert len(one.children) == 2 and one.results[0].status == "stopped"


@pytest.mark.parametrize("all_written", [True, False])
@pytest.mark.parametrize("was_before", [True, False])
def test_an_initialized_that_may_be_lost_with_the_connection_is_posted_again(
    all_written: bool, was_before: bool, make: Make
) -> None:
    one = make()
    one.run_to(State.INITIALIZED if was_before else State.INITIALIZING)
    one.link.listener.on_link_drop("reset")
    if not was_before:
        one.child_reads()
        one.child_initializes()
    one.link.listener.on_link_resumed(all_written=all_written)
    assert one.commands == ["initialized"] * (1 + (all_written and was_before))


def test_an_unknown_command_is_told_once(make: Make) -> None:
    one = make()
    for _ in range(3):
        one.worker("dance")
    assert len([line for line in one.output.lines if "'dance'" in line]) == 1


def test_an_answer_to_a_call_reaches_the_child_while_its_task_runs_only(make: Make) -> None:
    one = make()
    one.worker("dataSourceResponse", {})
    assert one.child.replies == []
    one.run_to(State.RUNNING)
    one.worker("dataSourceResponse", {})
    assert [number for number, _ in one.child.replies] == [1]


def test_a_call_is_posted_while_its_task_runs_only(make: Make) -> None:
    one = make()
    one.run_to(State.RUNNING)
    one.child.says(ApiCall(b'{"command":"startSpan"}'), 1)
    large = blob_of(b'{"command":"large"}')
    one.child.says(ApiCall(large), 1)
    assert one.commands[-2:] == ["startSpan", "large"] and not is_open(large.fd)
    one.stop()
    late = blob_of(b'{"command":"late"}')
    one.child.says(ApiCall(late), 1)
    assert one.commands[-1] == "large" and not is_open(late.fd)


def test_a_call_in_memory_that_could_be_shortened_ends_the_child(make: Make) -> None:
    one = make()
    one.run_to(State.RUNNING)
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    one.child.says(ApiCall(Memfd(fd, 10)), 1)
    assert one.child.kill_cause is Cause.CHANNEL_BROKEN and not is_open(fd)


def test_a_child_waits_while_the_worker_is_slow(make: Make) -> None:
    one = make()
    one.run_to(State.RUNNING)
    one.link.congested = True
    one.child.says(ApiCall(b'{"command":"startSpan"}'), 1)
    assert not one.child.is_listened_to and one.link.on_relieved is not None
    one.link.on_relieved()
    assert one.child.is_listened_to


# ---- children that die


@pytest.mark.parametrize(
    "state",
    [State.INITIALIZING, State.STARTING, State.INITIALIZED, State.RUNNING],
    ids=lambda one: one.name,
)
def test_a_task_whose_child_dies_is_answered_once(state: State, make: Make) -> None:
    one = make()
    one.run_to(state)
    if state in (State.INITIALIZING, State.STARTING):
        one.child_reads()  # init() runs
    one.child.goes()
    assert one.commands.count("errorMessage") == 1 and "done" not in one.commands
    assert one.link.posted[-1]["error"]["code"] == "EXITED"
    assert one.state is State.IDLE and len(one.children) == 2, "the next child is on its way"


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
    state: State, answer: str, make: Make
) -> None:
    one = make()
    one.run_to(state)
    one.children[0].goes()
    assert one.commands[-1] == answer and one.commands.count(answer) == 1
    assert one.state is State.IDLE and len(one.children) == 2


def test_a_child_that_dies_between_two_tasks_is_told_and_replaced(make: Make) -> None:
    one = make()
    one.run_to(State.RUNNING)
    one.child_answers()
    one.child.goes()
    assert one.output.shows("✘ between two tasks: EXITED") and len(one.children) == 2


def test_a_child_that_cannot_load_its_code_fails_the_task_and_is_not_started_over_and_over(
    make: Make,
) -> None:
    one = make(methods=None)
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


@pytest.mark.parametrize("methods", [("start",), ("init", "start")], ids=["no init", "init"])
@pytest.mark.parametrize("has_spare", [False, True], ids=["a new one", "the spare"])
@pytest.mark.parametrize("starts_before", [False, True], ids=["start after", "start before"])
def test_a_task_whose_child_dies_before_it_has_begun_goes_to_another(
    methods: tuple[str, ...], has_spare: bool, starts_before: bool, make: Make
) -> None:
    """The worker gets one `initialized`, and the child gets the task before its start."""
    one = make(methods=methods, spare=has_spare)
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


def test_a_start_that_came_before_the_second_child_was_ready_goes_after_the_task(make: Make) -> None:
    one = make(methods=("init", "start"), spare=True)
    first, spare = one.children
    spare.loads("start")  # the code has changed meanwhile: nothing is left to be waited for
    one.initialize()
    one.start()
    first.goes()
    assert spare.kinds == ["Begin", "Start"] and one.commands == ["initialized", "started"]


def test_a_second_child_that_dies_too_early_ends_the_task(make: Make) -> None:
    one = make()
    one.run_to(State.INITIALIZING)
    one.children[0].goes()
    one.children[1].loads("init", "start")
    one.children[1].goes()
    assert one.commands == ["errorMessage"] and one.state is State.IDLE


@pytest.mark.parametrize("cause", [Cause.MEMORY, Cause.START_TIMEOUT], ids=lambda one: one.name)
def test_a_child_that_was_killed_for_a_limit_gives_its_task_to_no_other(cause: Cause, make: Make) -> None:
    one = make()
    one.run_to(State.INITIALIZING)
    one.child.goes(Exit(cause, limit_bytes=1))
    assert one.commands == ["errorMessage"]


def test_a_repeated_initialize_while_a_second_child_prepares_is_answered_when_that_is_ready(
    make: Make,
) -> None:
    one = make(methods=("start",))
    one.initialize()
    one.children[0].goes()
    assert one.state is State.REINITIALIZING
    one.initialize()
    assert one.state is State.INITIALIZING and one.commands == ["initialized"]
    one.child.loads("start")
    one.child_reads()
    one.child_initializes()
    assert one.commands == ["initialized", "initialized"]


def test_a_task_for_which_the_system_has_no_process_is_answered(make: Make) -> None:
    one = make()
    one.child.goes()
    one.refuses_children = True
    one.initialize()
    one.turn()
    error = one.link.posted[-1]["error"]
    assert error["code"] == "RUNNER_ERROR" and "Resource temporarily unavailable" in error["message"]
    one.refuses_children = False
    one.initialize("t2")
    assert one.state is State.INITIALIZING and one.child.kinds == ["Initialize"]


def test_a_process_that_could_not_be_had_for_one_task_does_not_end_the_next(make: Make) -> None:
    one = make()
    one.child.goes()
    one.refuses_children = True
    one.initialize()
    one.refuses_children = False
    one.initialize("t2")
    one.turn()
    assert one.state is State.INITIALIZING and "errorMessage" not in one.commands


def test_a_child_is_replaced_after_the_tasks_that_were_asked_for(make: Make) -> None:
    one = make(methods=("start",), recycle_after=2)
    for name in ("t1", "t2"):
        assert len(one.children) == 1
        one.initialize(name)
        one.start()
        one.child_answers()
    old, new = one.children
    assert old.exits == [{"exitCode": 0}] and new.kill_cause is None
    old.goes(Exit(Cause.EXITED, code=0))
    assert one.state is State.IDLE


def test_the_warden_rests_a_second_after_the_last_task_and_looks_again_at_the_next(make: Make) -> None:
    one = make(methods=("start",))
    one.initialize()
    one.start()
    one.child_answers()
    one.after(0.9)
    assert one.child.idle == []
    one.after(0.2)
    assert one.child.idle == [True]
    one.initialize("t2")
    assert one.child.idle == [True, False]


# ---- the end of everything


@pytest.mark.parametrize(
    "state", [one for one in State if one not in (State.REINITIALIZING, State.RESTARTING, State.EXITED)],
    ids=lambda one: one.name,
)  # fmt: skip
def test_an_exit_ends_everything_in_any_state(state: State, make: Make) -> None:
    one = make(spare=True)
    one.run_to(state)
    one.exit()
    assert one.finished == 0
    for child in one.children:
        if not child.is_gone:
            child.goes()
    one.turn()
    assert one.finished == 1 and one.link.is_closed and one.state is State.EXITED
    assert all(child.exits or child.kill_cause for child in one.children)
    answers = [command for command in one.commands if command in ("done", "errorMessage", "stopped")]
    assert len(answers) == (1 if state in (State.ANSWERED, State.STOPPED) else 0)
    assert len(one.results) == (0 if state is State.IDLE else 1)
    assert one.supervisor.exit_status == (130 if state is State.EXITING else 7)


def test_a_second_interrupt_kills_at_once(make: Make) -> None:
    one = make()
    one.run_to(State.RUNNING)
    one.supervisor.shutdown(130)
    assert one.child.kill_cause is None and one.child.exits == [{"exitCode": 0}]
    one.supervisor.shutdown(130)
    assert one.child.kill_cause is Cause.INTERRUPTED and one.prepared == 0
    one.child.goes()
    assert one.finished == 1 and one.supervisor.exit_status == 130
    failure = one.results[0].failure
    assert failure is not None and "second interrupt" in failure.message


def test_who_does_not_end_in_the_grace_is_killed_at_the_end_too(make: Make) -> None:
    one = make()
    one.run_to(State.EXITING)
    one.after(5.1)
    assert one.child.kill_cause is Cause.STOPPED
    one.child.goes()
    assert one.finished == 1


@pytest.mark.parametrize("what", ["quits", "answers", "fails to load"])
def test_what_a_child_says_while_everything_ends_does_not_keep_its_end_from_being_noticed(
    what: str, make: Make
) -> None:
    one = make()
    one.run_to(State.EXITING)
    if what == "quits":
        one.child_fails(ends=True)
    elif what == "answers":
        one.child_answers()
    else:
        one.child.says(LoadFailed("IMPORT_FAILED", "no"))
    one.child.goes()
    assert one.finished == 1 and one.load_failures == []


def test_no_task_is_begun_while_everything_ends(make: Make) -> None:
    one = make()
    one.supervisor.shutdown(0)
    one.initialize()
    assert one.child.kinds == [] and one.commands == []


def test_without_a_child_the_end_comes_at_once(make: Make) -> None:
    one = make()
    one.child.goes()
    one.supervisor.shutdown(0)
    one.turn()
    assert one.finished == 1


def test_a_child_on_its_way_out_is_waited_for_at_the_end(make: Make) -> None:
    one = make()
    one.run_to(State.RUNNING)
    one.initialize("t2")
    old, new = one.children
    one.supervisor.shutdown(0)
    new.goes()
    assert one.finished == 0
    old.goes()
    assert one.finished == 1


# ---- what is kept


def test_all_about_a_task_is_on_disk_when_its_answer_leaves(make: Make, tmp_path: Any) -> None:
    one = make(methods=("start",), store=Store(tmp_path), state_dir=str(tmp_path))
    one.initialize()
    begin = one.child.sent[0][1]
    assert isinstance(begin, Begin) and begin.folder == str(tmp_path / "tasks" / "t1")
    one.start()
    there: list[bool] = []
    post = one.link.post

    def look(*args: Any, **more: Any) -> bool:
        there.append('"succeed"' in (tmp_path / "tasks/t1/task.json").read_text())
        return post(*args, **more)

    one.link.post = look  # type: ignore[method-assign]
    one.child_answers()
    assert there == [True]
    one.supervisor.shutdown(0)
    one.child.goes()


# ---- the order of the lifeline and the task socket


def test_limits_are_told_and_usage_is_of_the_child_although_loaded_was_readable_first(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing orders the warden's Spawned and the child's Loaded: they come over two sockets."""
    warden = FakeWarden(monkeypatch)

    def attach(listener: Any) -> Any:
        warden.child.tell(listener)
        return warden.child

    one = make(methods=None, child=attach, loop=warden.loop, clock=warden.clock)
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
        warden.child.tell(warden.seen)
        warden.close()
