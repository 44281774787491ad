"""What the worker says at any moment, to a supervisor with a recording link."""

from __future__ import annotations

import os

import pytest
from hkrunner.runner.protocol.task_state import State
from hkrunner.sandbox.shared.message_format import Memfd
from hkrunner.sandbox.shared.messages import ApiCall, Done
from hkrunner.sandbox.shared.outcome import Cause
from support.fake_serving import Serve, blob_of, is_open


@pytest.mark.parametrize(
    "state",
    [State.INITIALIZING, State.STARTING, State.RUNNING, State.STOPPING, State.KILLING],
    ids=lambda one: one.name,
)
def test_a_child_that_works_on_an_old_task_is_replaced_when_the_worker_begins_another(
    state: State, serve: Serve
) -> None:
    one = serve()
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
def test_an_idle_child_takes_the_next_task_itself(state: State, serve: Serve) -> None:
    one = serve()
    one.run_to(state)
    count = len(one.commands)
    one.initialize("t2")
    assert len(one.children) == 1 and one.child.kill_cause is None
    assert one.child.sent[-1][0] == 2 and one.commands[count:] == []
    one.after(0.3)
    assert one.commands[count:] == [], "no answer of the old task goes into the new one"


@pytest.mark.parametrize("state", [State.INITIALIZING, State.RUNNING], ids=lambda one: one.name)
def test_a_repeated_initialize_does_not_run_the_task_twice(state: State, serve: Serve) -> None:
    one = serve()
    one.run_to(state)
    sent, commands = len(one.child.sent), one.commands
    one.initialize()
    assert len(one.child.sent) == sent and one.commands == commands and one.state is state


def test_a_repeated_initialize_of_an_initialized_task_is_answered_again(serve: Serve) -> None:
    one = serve()
    one.run_to(State.INITIALIZED)
    clears = one.link.clears
    one.initialize()
    assert one.commands == ["initialized", "initialized"] and one.link.clears == clears + 1
    assert one.state is State.INITIALIZED


def test_a_task_of_the_same_name_in_another_job_is_another_task(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    one.initialize(job="another")
    assert len(one.children) == 2 and one.results[0].status == "stopped"


@pytest.mark.parametrize("all_written", [True, False])
@pytest.mark.parametrize("was_before", [True, False])
def test_an_initialized_that_may_be_lost_with_the_connection_is_posted_again(
    all_written: bool, was_before: bool, serve: Serve
) -> None:
    one = serve()
    one.run_to(State.INITIALIZED if was_before else State.INITIALIZING)
    one.link.listener.on_link_drop("reset")
    if not was_before:
        one.child_reads()
        one.child_initializes()
    one.link.listener.on_link_resumed(all_written=all_written)
    assert one.commands == ["initialized"] * (1 + (all_written and was_before))


def test_an_unknown_command_is_reported_once(serve: Serve) -> None:
    one = serve()
    for _ in range(3):
        one.worker("dance")
    assert len([line for line in one.output.lines if "'dance'" in line]) == 1


def test_an_answer_to_a_call_reaches_the_child_while_its_task_runs_only(serve: Serve) -> None:
    one = serve()
    one.worker("dataSourceResponse", {})
    assert one.child.replies == []
    one.run_to(State.RUNNING)
    one.worker("dataSourceResponse", {})
    assert [number for number, _ in one.child.replies] == [1]


def test_a_call_is_posted_while_its_task_runs_only(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    one.child.says(ApiCall(b'{"command":"startSpan"}'), 1)
    large = blob_of(b'{"command":"large"}')
    one.child.says(ApiCall(large), 1)
    assert one.commands[-2:] == ["startSpan", "large"] and not is_open(large.fd)
    one.stop()
    late = blob_of(b'{"command":"late"}')
    one.child.says(ApiCall(late), 1)
    assert one.commands[-1] == "large" and not is_open(late.fd)


def test_a_large_answer_without_a_connection_is_released(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    one.supervisor._replies.link = None
    large = blob_of(b'{"command":"done"}')
    one.child.says(Done(large), 1)
    assert one.results[0].status == "succeed" and not is_open(large.fd)


def test_a_call_in_memory_that_could_be_shortened_ends_the_child(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    one.child.says(ApiCall(Memfd(fd, 10)), 1)
    assert one.child.kill_cause is Cause.CHANNEL_BROKEN and not is_open(fd)


def test_a_child_waits_while_the_worker_is_slow(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    one.link.congested = True
    one.child.says(ApiCall(b'{"command":"startSpan"}'), 1)
    assert not one.child.is_listened_to and one.link.on_relieved is not None
    one.link.on_relieved()
    assert one.child.is_listened_to


def test_an_error_of_our_own_is_not_taken_for_a_message_that_cannot_be_read(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It left the task as it was, which the worker waited for."""
    one = serve()

    def fail() -> None:
        raise ValueError("embedded null byte")

    monkeypatch.setattr(one.supervisor._pool, "ready", fail)
    with pytest.raises(ValueError, match="embedded null byte"):
        one.initialize()
    assert not one.output.shows("cannot be read")
