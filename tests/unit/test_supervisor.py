"""Stops, signs of life and the end of everything, on a clock that the test turns."""

from __future__ import annotations

import pytest
from hkrunner.runner.protocol.task_state import AT_STORAGE, State
from hkrunner.sandbox.shared.messages import LoadFailed, Problem
from hkrunner.sandbox.shared.outcome import Cause
from support.fake_serving import Serve

# ---- stop


def test_a_stop_that_ends_the_task_is_answered_once(serve: Serve) -> None:
    one = serve()
    one.run_to(State.STOPPING)
    assert one.child.stops == [(1, {"forceStop": True})]
    one.stop()
    one.child_has_stopped()
    one.child_answers()
    assert one.commands == ["initialized", "started", "stopped"] and one.child.kill_cause is None
    one.after(10.0)
    assert one.child.kill_cause is None, "the grace is over with the stop"
    assert (one.results[0].status, one.results[0].failure) == ("stopped", None)


def test_a_stop_that_is_ignored_ends_in_a_kill_and_one_stopped(serve: Serve) -> None:
    one = serve()
    one.run_to(State.STOPPING)
    one.after(4.9)
    assert one.child.kill_cause is None
    one.after(0.2)
    assert one.child.kill_cause is Cause.STOPPED
    one.children[0].goes()
    assert one.commands.count("stopped") == 1 and "done" not in one.commands
    failure = one.results[0].failure
    assert failure is not None and failure.code == "STOP_FORCED"
    assert one.state is State.IDLE and len(one.children) == 2, "the next child is on its way"


def test_a_stop_that_is_ignored_since_a_thread_was_lost_says_so(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    lost = "thread pump ended with MemoryError; what waits for it may wait for ever"
    one.child.says(Problem(lost, thread_lost=True))
    one.worker("stop")
    one.after(6)
    one.children[0].goes()
    failure = one.results[0].failure
    assert failure is not None
    assert failure.message.splitlines()[1] == f"before that, {lost}"
    assert lost not in one.results[0].problems


def test_messages_of_a_child_that_is_being_killed_are_dropped(serve: Serve) -> None:
    one = serve()
    one.run_to(State.KILLING)
    one.child_answers()
    assert "done" not in one.commands and "stopped" not in one.commands
    assert one.state is State.KILLING


def test_a_stop_before_start_leaves_the_child_to_the_next_task(serve: Serve) -> None:
    one = serve()
    one.run_to(State.INITIALIZED)
    one.stop()
    assert one.commands == ["initialized", "stopped"] and one.child.stops == []
    one.initialize("t2")
    assert len(one.children) == 1 and one.child.sent[-1][0] == 2


def test_a_stop_in_init_is_answered_when_init_returns(serve: Serve) -> None:
    one = serve()
    one.run_to(State.INITIALIZING)
    one.stop()
    one.child_reads()
    one.child_initializes()
    assert one.commands == ["stopped"] and one.state is State.IDLE


@pytest.mark.parametrize("state", [State.IDLE, State.ANSWERED], ids=lambda one: one.name)
def test_a_stop_that_crosses_the_answer_gets_its_stopped(state: State, serve: Serve) -> None:
    one = serve()
    one.run_to(State.ANSWERED)
    if state is State.IDLE:
        one.after(0.3)
    one.stop()
    if state is State.ANSWERED:
        assert "stopped" not in one.commands, "what the task has left may be ended just now"
        one.child.samples(answers=one.child.asked[-1])
    assert one.commands[-1] == "stopped" and one.commands.count("stopped") == 1
    assert one.state is State.IDLE


def test_a_stop_of_a_task_that_lasted_is_answered_with_its_usage(serve: Serve) -> None:
    one = serve()
    one.run_to(State.STOPPED)
    one.child.samples(answers=one.child.asked[-1], memory=30_000)
    assert one.commands[-1] == "stopped" and one.results[0].peak_bytes == 30_000


def test_what_stop_raises_is_shown(serve: Serve) -> None:
    one = serve()
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
def test_alive_is_sent_every_four_seconds(state: State, sign: str, serve: Serve) -> None:
    one = serve(grace_s=60.0)
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
def test_no_alive_is_sent_where_the_worker_does_not_accept_it(state: State, serve: Serve) -> None:
    one = serve()
    one.run_to(state)
    one.after(9.0)
    assert one.commands == []


# ---- the end of everything


@pytest.mark.parametrize(
    "state",
    [one for one in State if one not in (State.REINITIALIZING, State.RESTARTING, State.EXITED, *AT_STORAGE)],
    ids=lambda one: one.name,
)  # fmt: skip
def test_an_exit_ends_everything_in_any_state(state: State, serve: Serve) -> None:
    one = serve(spare=True)
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


@pytest.mark.parametrize("state", [State.RUNNING, State.ANSWERED, State.STOPPED], ids=lambda one: one.name)
def test_the_connection_ends_in_the_middle_of_a_task_only_where_the_task_has_no_answer(
    state: State, serve: Serve
) -> None:
    one = serve()
    one.run_to(state)
    one.supervisor.shutdown(143)
    one.child.goes()
    has_answer = bool({"done", "stopped"} & {*one.commands})
    assert has_answer is (state is not State.RUNNING)
    assert one.link.cut_short == ("" if has_answer else "hkrunner was asked to end during task t1")


@pytest.mark.parametrize("what", ["it is sent", "the grace is over", "a second signal"])
def test_an_answer_that_is_being_sent_is_waited_for_at_the_end(what: str, serve: Serve) -> None:
    one = serve()
    one.run_to(State.ANSWERED)
    one.link.owes_answer = True
    one.supervisor.shutdown(143)
    one.child.goes()
    one.after(4.9)
    assert one.finished == 0 and not one.link.is_closed
    if what == "it is sent":
        one.link.owes_answer = False
    elif what == "a second signal":
        one.supervisor.shutdown(143)
    one.after(0.2)
    assert one.finished == 1 and one.link.is_closed


def test_a_second_interrupt_kills_at_once(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    one.supervisor.shutdown(130)
    assert one.child.kill_cause is None and one.child.exits == [{"exitCode": 0}]
    one.supervisor.shutdown(130)
    assert one.child.kill_cause is Cause.INTERRUPTED
    one.child.goes()
    assert one.finished == 1 and one.supervisor.exit_status == 130
    failure = one.results[0].failure
    assert failure is not None and "second interrupt" in failure.message


def test_a_second_interrupt_also_kills_a_process_that_was_to_end_by_itself(serve: Serve) -> None:
    one = serve(grace_s=60.0)
    one.run_to(State.RUNNING)
    one.child_fails(ends=True)
    one.supervisor.shutdown(130)
    one.turn()
    assert one.state is State.EXITED and one.finished == 0
    one.supervisor.shutdown(130)
    (child,) = one.children
    assert child.kill_cause is Cause.INTERRUPTED
    child.goes()
    assert one.finished == 1


def test_an_interrupt_while_exit_runs_at_the_workers_wish_gives_it_the_grace_and_a_second_one_kills(
    serve: Serve,
) -> None:
    one = serve()
    one.exit()
    one.after(4.0)
    one.supervisor.shutdown(143)
    one.after(4.0)
    assert one.child.kill_cause is None and one.output.shows("■ stopping: 5 s to end")
    one.supervisor.shutdown(143)
    assert one.child.kill_cause is Cause.INTERRUPTED
    one.child.goes()
    assert one.finished == 1 and one.supervisor.exit_status == 143


def test_a_child_that_does_not_end_within_the_grace_is_killed_at_the_end_too(serve: Serve) -> None:
    one = serve()
    one.run_to(State.EXITING)
    one.after(5.1)
    assert one.child.kill_cause is Cause.STOPPED
    one.child.goes()
    assert one.finished == 1


@pytest.mark.parametrize("what", ["quits", "answers", "fails to load"])
def test_messages_during_the_shutdown_do_not_hide_the_end_of_the_child(what: str, serve: Serve) -> None:
    one = serve()
    one.run_to(State.EXITING)
    if what == "quits":
        one.child_fails(ends=True)
    elif what == "answers":
        one.child_answers()
    else:
        one.child.says(LoadFailed("IMPORT_FAILED", "no"))
    one.child.goes()
    assert one.finished == 1 and one.load_failures == []


def test_no_task_is_begun_while_everything_ends(serve: Serve) -> None:
    one = serve()
    one.supervisor.shutdown(0)
    one.initialize()
    assert one.child.kinds == [] and one.commands == []


def test_without_a_child_the_end_comes_at_once(serve: Serve) -> None:
    one = serve()
    one.child.goes()
    one.supervisor.shutdown(0)
    one.turn()
    assert one.finished == 1


def test_a_child_that_is_ending_is_waited_for_at_the_end(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    one.initialize("t2")
    old, new = one.children
    one.supervisor.shutdown(0)
    new.goes()
    assert one.finished == 0
    old.goes()
    assert one.finished == 1
