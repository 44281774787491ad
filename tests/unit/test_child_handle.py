"""The parent's handle on a child, with a warden and a child that do what the test says."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hkrunner.sandbox.parent.child_handle import CHANNEL_GRACE_S
from hkrunner.sandbox.shared.channel import INLINE_LIMIT, INLINE_MAX, header
from hkrunner.sandbox.shared.limits import MI, Limits
from hkrunner.sandbox.shared.message_format import PROTOCOL_VERSION, Memfd, ProcessMessage, encode
from hkrunner.sandbox.shared.messages import (
    AskUsage,
    Begin,
    EndOthers,
    EndProcess,
    Initialize,
    Initialized,
    Kill,
    LimitCpu,
    Problem,
    Reply,
    Sample,
    Spawn,
    Start,
    StopTask,
    WatchTree,
)
from hkrunner.sandbox.shared.outcome import Cause
from hkrunner.sandbox.shared.user_process_messages import EndAsked
from support.fake_warden import LOADED, PID, SETUP, SPAWNED, FakeWarden, StartWarden

# ---- the order of two sockets


def test_nothing_of_a_child_is_acted_on_before_spawned_was_read(start_warden: StartWarden) -> None:
    warden = start_warden()
    warden.answer(0, LOADED)
    warden.answer(1, Initialized())
    warden.print("stdout", b"loading\n")
    warden.turn()
    assert not warden.seen.messages and not warden.seen.output and not warden.child.loaded
    warden.say(SPAWNED)
    warden.turn()
    assert [message for _, message in warden.seen.messages] == [LOADED, Initialized()]
    assert warden.seen.pid_at_first == warden.child.pid == PID
    assert warden.child.protection == SPAWNED.protection
    assert warden.seen.output == {"stdout": b"loading\n"}


def test_a_child_that_is_paused_stays_paused_when_spawned_arrives(start_warden: StartWarden) -> None:
    """The worker accepts nothing for now: messages of an earlier child have filled its socket."""
    warden = start_warden()
    warden.child.listen(False)
    warden.say(SPAWNED)
    warden.answer(0, LOADED)
    warden.turn()
    assert not warden.seen.messages
    warden.child.listen(True)
    warden.turn()
    assert warden.seen.messages == [(0, LOADED)]


def test_messages_of_a_child_whose_warden_was_lost_before_spawned_are_dropped(
    start_warden: StartWarden,
) -> None:
    warden = start_warden()
    warden.answer(0, LOADED)
    warden.hang_up()
    warden.until_gone()
    assert not warden.seen.messages and not warden.seen.exits[0].loaded


# ---- what the parent says


def test_the_warden_gets_all_that_it_takes_to_start_the_child(start_warden: StartWarden) -> None:
    warden = start_warden(
        env={"A": "1"}, limits=Limits(memory_bytes=64 * MI, pids=3, mem_mode="brake"), folders=["/code"]
    )
    (spawn,) = warden.told
    assert isinstance(spawn, Spawn)
    assert (spawn.version, spawn.cwd, spawn.env, spawn.folders) == (
        PROTOCOL_VERSION,
        "/code",
        {"A": "1"},
        ["/code"],
    )
    assert spawn.argv[0] == "python" and spawn.argv[-1] == "child"
    assert spawn.fds == ["tasks", "control", "stdout", "stderr", "fault"]
    assert (spawn.limits["memory_bytes"], spawn.limits["pids"]) == (64 * MI, 3)
    assert warden.got(warden.tasks) == [(0, SETUP.replace(brake_bytes=64 * MI))]


@pytest.mark.parametrize(
    "limits",
    [Limits(memory_bytes=64 * MI), Limits(memory_bytes=64 * MI, mem_mode="brake", enforced=False), Limits()],
)
def test_a_child_without_a_memory_brake_gets_no_brake_setting(
    start_warden: StartWarden, limits: Limits
) -> None:
    warden = start_warden(limits=limits)
    assert warden.got(warden.tasks) == [(0, SETUP)]


def test_an_environment_that_does_not_fit_ends_in_an_exit_that_says_so(start_warden: StartWarden) -> None:
    warden = start_warden(env={"A": "x" * INLINE_LIMIT})
    assert not warden.told
    warden.hang_up()
    warden.until_gone()
    (exit,) = warden.seen.exits
    assert (exit.cause, exit.detail) == (Cause.NOT_STARTED, "the environment is larger than 1 MiB")


def test_a_task_goes_out_in_order_with_one_write(started: FakeWarden) -> None:
    started.child.send(7, Begin(b"task"), Start())
    assert started.got(started.tasks) == [(7, Begin(b"task")), (7, Start())]


def test_a_large_task_travels_in_its_memory_which_stays_the_callers(started: FakeWarden) -> None:
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.write(fd, b"12345")
    started.child.send(7, Initialize(Memfd(fd, 5)))
    ((task, message),) = started.got(started.tasks)
    assert isinstance(message, Initialize) and isinstance(message.wire, Memfd)
    assert (task, os.pread(message.wire.fd, 9, 0)) == (7, b"12345")
    os.close(message.wire.fd)
    os.close(fd)


def test_what_the_kernel_does_not_take_at_once_is_written_when_it_does(started: FakeWarden) -> None:
    wires = [bytes([number]) * 200_000 for number in range(20)]
    for number, wire in enumerate(wires):
        started.child.send(number, Begin(wire))
    found: list[tuple[int, ProcessMessage]] = []
    while len(found) < len(wires):
        found += started.got(started.tasks)
        started.turn()
    assert found == [(number, Begin(wire)) for number, wire in enumerate(wires)]


def test_stop_exit_and_reply_go_to_the_control_thread(started: FakeWarden) -> None:
    started.child.reply(3, b"reply")
    started.child.stop(3, {"forceStop": True, "at": Path("/a"), ("no", "text"): 1})
    started.child.exit({"exitCode": 4})
    assert started.got(started.control) == [
        (3, Reply(b"reply")),
        (3, StopTask({"forceStop": True, "at": "/a"})),
        (0, EndProcess({"exitCode": 4})),
    ]
    assert started.tasks.recv(1) == b"", "its main thread sees that no task will come"


@pytest.mark.parametrize("odd", [{"a": "x" * INLINE_MAX}, {"a": float}, {}], ids=["large", "odd", "empty"])
def test_options_of_a_stop_are_reduced_to_what_json_can_hold(
    started: FakeWarden, odd: dict[str, Any]
) -> None:
    circle: list[Any] = []
    circle.append(circle)
    started.child.stop(1, {"forceStop": True, "circle": circle, **odd})
    assert started.got(started.control) == [(1, StopTask({"forceStop": True}))]


def test_the_cpu_limit_is_suspended_from_a_stop_to_the_next_task(start_warden: StartWarden) -> None:
    warden = start_warden(limits=Limits(cpu_cores=1.0))
    warden.child.stop(1, {})
    warden.child.stop(1, {})
    warden.child.send(2, Begin(b""))
    assert warden.heard() == [LimitCpu(False), LimitCpu(True)]


def test_the_warden_learns_when_a_task_begins_and_ends(started: FakeWarden) -> None:
    started.child.watch(idle=False)
    started.child.ask(5, began_at=7.0)
    started.child.end_others()
    assert started.heard() == [WatchTree(False, False), AskUsage(5, True, 7.0), EndOthers()]


# ---- what the child says


def test_a_child_is_loaded_once_it_says_so(started: FakeWarden) -> None:
    assert started.child.has_init and repr(started.child) == f"<WardedChild pid {PID} running>"
    started.answer(0, LOADED)
    started.turn()
    assert started.child.loaded and not started.child.has_init
    assert started.heard() == [WatchTree(True, True)]
    assert repr(started.child) == f"<WardedChild pid {PID} running loaded>"


def test_the_warden_learns_whether_the_code_has_a_stop(started: FakeWarden) -> None:
    started.answer(0, LOADED.replace(methods=["start", "stop"]))
    started.turn()
    assert started.heard() == [WatchTree(True, True, True)]


def test_a_child_that_waits_is_quiet(started: FakeWarden) -> None:
    assert started.child.is_quiet
    started.answer(0, LOADED)
    assert not started.child.is_quiet


def test_usage_is_passed_on(started: FakeWarden) -> None:
    sample = Sample(1, 2, 3, 4, 0.5, answers=6)
    started.say(sample)
    started.turn()
    assert started.seen.samples == [sample]


def test_paused_output_waits_in_its_pipe(started: FakeWarden) -> None:
    started.child.hold_output(True)
    started.print("stdout", b"one")
    started.turn()
    assert not started.seen.output
    started.child.hold_output(False)
    started.print("stderr", b"two")
    started.turn()
    assert started.seen.output == {"stdout": b"one", "stderr": b"two"}


def test_output_is_read_when_it_is_requested(started: FakeWarden) -> None:
    started.print("stdout", b"one")
    started.child.drain_output()
    assert started.seen.output == {"stdout": b"one"}


def test_one_read_is_bounded_however_much_comes(started: FakeWarden) -> None:
    started.print("stdout", b"one")
    with patch("hkrunner.sandbox.parent.output_pipes.CHUNK_BYTES", 2):
        started.child.drain_output(once=True)
    assert started.seen.output == {"stdout": b"on"}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"garbage, and enough of it", "bad frame at byte 0: 67617262616765"),
        (encode(1, EndAsked(3)), f"frame {EndAsked.kind} with a bad body: a kind nobody sends"),
        (header(Problem.kind, 1, 2) + b"{}", f"frame {Problem.kind} with a bad body: Problem without text"),
    ],
    ids=["garbage", "of another", "of another shape"],
)
def test_a_child_that_sends_an_invalid_message_is_killed(
    started: FakeWarden, data: bytes, sentence: str
) -> None:
    started.tasks.sendall(data)
    started.turn()
    assert started.heard() == [Kill(False)] and started.child.is_being_killed
    started.end(signal.SIGKILL, was_killed=True)
    started.turn()
    (exit,) = started.seen.exits
    assert exit.cause is Cause.CHANNEL_BROKEN and exit.detail.startswith(sentence)


def test_a_child_that_sent_an_invalid_message_is_not_read_again(started: FakeWarden) -> None:
    started.tasks.sendall(b"garbage, and enough of it")
    started.turn()
    started.child.listen(False)
    started.child.listen(True)
    started.answer(0, LOADED)
    started.turn()
    started.end(signal.SIGKILL, was_killed=True)
    started.turn()
    assert not started.seen.messages and started.seen.exits[0].cause is Cause.CHANNEL_BROKEN


def test_a_child_that_closes_its_socket_and_lives_on_is_killed_after_a_while(started: FakeWarden) -> None:
    started.tasks.sendall(header(Problem.kind, 1, 100) + b"{")
    started.tasks.close()
    started.turn()
    started.after(CHANNEL_GRACE_S - 0.1)
    assert not started.heard() and started.seen.endings == 1
    started.after(0.2)
    assert started.heard() == [Kill(False)]
    started.end(signal.SIGKILL, was_killed=True)
    started.turn()
    (exit,) = started.seen.exits
    assert (exit.cause, exit.detail) == (
        Cause.CHANNEL_BROKEN,
        "it closed the socket in the middle of a frame",
    )
