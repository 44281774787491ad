"""How the parent learns of a child's end, and of its cause."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from typing import Any

import pytest
from hkrunner.runner.io.loop import Loop
from hkrunner.sandbox.linux import kernel, process_tree
from hkrunner.sandbox.linux.oom_counter import OomWatch
from hkrunner.sandbox.parent import orphan_cleanup, warded_child, warden_launch
from hkrunner.sandbox.parent.child_handle import CHANNEL_GRACE_S
from hkrunner.sandbox.parent.warded_child import WARDEN_DEADLINE_S, WardedChild
from hkrunner.sandbox.shared.channel import EXIT_CHANNEL_LOST
from hkrunner.sandbox.shared.limits import MI, Limits
from hkrunner.sandbox.shared.message_format import PROTOCOL_VERSION
from hkrunner.sandbox.shared.messages import (
    Begin,
    BrokenLimit,
    Kill,
    ProcessMemory,
)
from hkrunner.sandbox.shared.outcome import Cause
from support.fake_warden import ACCOUNT, LOADED, PID, SETUP, SPAWNED, FakeWarden, StartWarden


def test_all_messages_of_a_child_arrive_before_its_end(started: FakeWarden) -> None:
    started.answer(0, LOADED)
    started.print("stdout", b"last words")
    started.end(3 << 8)
    started.turn()
    assert started.seen.messages == [(0, LOADED)] and started.seen.output == {"stdout": b"last words"}
    (exit,) = started.seen.exits
    assert (exit.cause, exit.code, exit.signal, exit.pid) == (Cause.EXITED, 3, None, PID)
    assert exit.loaded and (exit.peak_bytes, exit.cpu_s) == (1000, 0.5)
    assert started.process.was_reaped, "no other child has taken the warden"


BROKEN = BrokenLimit("memory", 3 * MI, 2 * MI, 1.5, [ProcessMemory(PID, "python", 3 * MI)], [], 0, 0)


@pytest.mark.parametrize(
    ("told", "cause"),
    [
        ({"status": signal.SIGSEGV}, Cause.SIGNALLED),
        ({"status": signal.SIGKILL, "broken": BROKEN}, Cause.MEMORY),
        ({"status": signal.SIGKILL, "account": ACCOUNT.replace(group_oom=True)}, Cause.MEMORY),
        ({"status": None}, Cause.EXITED),
        ({"status": 0, "account": None}, Cause.EXITED),
    ],
    ids=[
        "a signal",
        "a limit",
        "the group's memory",
        "unknown",
        "no account",
    ],
)
def test_the_cause_of_an_end_is_what_the_warden_reported(
    started: FakeWarden, told: dict[str, Any], cause: Cause
) -> None:
    started.end(**told)
    started.turn()
    assert started.seen.exits[0].cause is cause


@pytest.mark.parametrize(
    ("when", "warden_saw_it", "status", "cause"),
    [
        ("in the task", True, signal.SIGKILL, Cause.HOST_OOM),
        ("in the task", True, signal.SIGTERM, Cause.SIGNALLED),
        ("in the task", False, signal.SIGKILL, Cause.SIGNALLED),
        ("before the task", True, signal.SIGKILL, Cause.SIGNALLED),
    ],
    ids=["a kill of the machine's", "another signal", "a kill long before the end", "a kill before the task"],
)
def test_an_oom_kill_of_the_machines_is_the_cause_if_it_was_in_the_task_and_just_before_the_end(
    start_warden: StartWarden,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    warden_saw_it: bool,
    status: int,
    cause: Cause,
) -> None:
    kills = [3]
    # The child was started an hour ago.
    monkeypatch.setattr(warded_child, "OomWatch", lambda now: OomWatch(now - 3600, count=lambda: kills[0]))
    warden = start_warden()
    warden.say(SPAWNED)
    warden.turn()
    kills[0] += when == "before the task"
    warden.child.send(1, Begin(b"{}"))
    kills[0] += when == "in the task"
    warden.end(status, account=ACCOUNT.replace(machine_oom=warden_saw_it))
    warden.turn()
    assert warden.seen.exits[0].cause is cause


def test_a_requested_kill_is_the_cause_of_the_end_unless_a_limit_was_exceeded_before(
    started: FakeWarden,
) -> None:
    started.child.kill(Cause.TASK_TIMEOUT, "2 s")
    started.child.kill(Cause.STOPPED)
    assert started.heard() == [Kill(stack=True)]
    os.pwrite(started.child._fault, b'Thread 0x1:\n  File "/code/main.py", line 3 in start\n', 0)
    started.end(signal.SIGKILL, was_killed=True)
    started.turn()
    (exit,) = started.seen.exits
    assert (exit.cause, exit.detail) == (Cause.TASK_TIMEOUT, "2 s")
    assert exit.stack == 'Thread 0x1:\n  File "/code/main.py", line 3 in start'


def test_a_limit_that_was_exceeded_before_a_kill_is_the_cause(started: FakeWarden) -> None:
    started.child.kill(Cause.TASK_TIMEOUT, "2 s")
    started.end(signal.SIGKILL, broken=BROKEN)
    started.turn()
    (exit,) = started.seen.exits
    assert exit.cause is Cause.MEMORY and exit.breach is not None
    assert (exit.breach.used, exit.breach.top[0].name) == (3 * MI, "python")


def test_the_child_itself_is_not_counted_among_the_other_processes(started: FakeWarden) -> None:
    others = [ProcessMemory(PID, "python", 9), ProcessMemory(8, "sleep", 1)]
    started.end(0, others=others, others_count=25)
    started.turn()
    (exit,) = started.seen.exits
    assert [one.name for one in exit.others] == ["sleep"] and exit.others_count == 24


def test_a_child_that_found_its_socket_closed_is_reported_as_a_broken_channel(started: FakeWarden) -> None:
    started.tasks.close()
    started.end(EXIT_CHANNEL_LOST << 8)
    started.turn()
    (exit,) = started.seen.exits
    assert (exit.cause, exit.detail) == (Cause.CHANNEL_BROKEN, "it closed the socket")


def test_a_child_that_could_not_be_executed_says_why(start_warden: StartWarden) -> None:
    warden = start_warden()
    warden.say(SPAWNED.replace(problem="FileNotFoundError: /no/python"))
    warden.end(127 << 8)
    warden.turn()
    (exit,) = warden.seen.exits
    assert (exit.cause, exit.detail) == (Cause.NOT_STARTED, "FileNotFoundError: /no/python")


def test_a_warden_of_another_version_is_reported_as_such(start_warden: StartWarden) -> None:
    warden = start_warden()
    warden.say(SPAWNED.replace(version=PROTOCOL_VERSION + 1))
    warden.turn()
    warden.until_gone()
    (exit,) = warden.seen.exits
    assert exit.cause is Cause.NOT_STARTED and "was hkrunner replaced while it ran?" in exit.detail


def test_a_warden_that_ends_without_a_report_is_the_cause(started: FakeWarden) -> None:
    started.hang_up()
    started.until_gone()
    (exit,) = started.seen.exits
    assert (exit.cause, exit.detail) == (Cause.WARDEN_LOST, "it ended unexpectedly")
    assert started.process.was_killed and started.process.was_reaped


def test_a_warden_that_does_not_answer_a_kill_is_given_up(started: FakeWarden) -> None:
    started.child.kill(Cause.TASK_TIMEOUT, "3 s")
    started.after(WARDEN_DEADLINE_S + 0.1)
    started.until_gone()
    (exit,) = started.seen.exits
    assert (exit.cause, exit.detail) == (Cause.TASK_TIMEOUT, "3 s")


def test_a_child_whose_warden_does_not_say_that_it_has_ended_is_not_accused_of_closing_its_socket(
    started: FakeWarden,
) -> None:
    started.tasks.close()
    started.turn()
    started.after(CHANNEL_GRACE_S + 0.1)
    started.after(WARDEN_DEADLINE_S + 0.1)
    started.until_gone()
    (exit,) = started.seen.exits
    assert (exit.cause, exit.detail) == (Cause.WARDEN_LOST, "it did not answer")


def test_a_warden_that_reads_nothing_is_given_up(
    started: FakeWarden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warded_child, "WARDEN_READS_S", 0.01)
    for number in range(100_000):
        started.child.ask(number)
        started.loop.turn(0)
        if started.process.was_killed:
            break
    started.until_gone()
    (exit,) = started.seen.exits
    assert (exit.cause, exit.detail) == (Cause.WARDEN_LOST, "it reads no messages")


def test_what_the_warden_had_no_time_to_end_is_ended_before_the_end_is_reported(
    started: FakeWarden, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [2**30]  # no process has such a pid
    monkeypatch.setattr(process_tree, "children", lambda pid: list(there))
    started.end(signal.SIGKILL, left=[ProcessMemory(there[0], "bomb", 0)])
    started.turn()
    assert not started.seen.exits
    there.clear()
    started.until_gone()
    (exit,) = started.seen.exits
    assert (exit.signal, exit.left) == (signal.SIGKILL, ())


def test_what_cannot_be_ended_is_reported(started: FakeWarden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphan_cleanup, "DEADLINE_S", 0.0)
    monkeypatch.setattr(process_tree, "children", lambda pid: [2**30])
    started.end(signal.SIGKILL, left=[ProcessMemory(2**30, "stuck", 0)])
    started.until_gone()
    (exit,) = started.seen.exits
    assert (exit.signal, [one.pid for one in exit.left]) == (signal.SIGKILL, [2**30])


def test_a_child_for_which_no_descriptor_is_left_leaves_none_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    ours, theirs = socket.socketpair()
    launched = warden_launch.WaitingWarden(None, ours)  # type: ignore[arg-type]
    monkeypatch.setattr(warden_launch, "take", lambda: launched)
    monkeypatch.setattr(kernel, "become_subreaper", lambda: None)
    loop = Loop()
    with monkeypatch.context() as patch, contextlib.closing(loop), theirs:
        patch.setattr(os, "dup", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            WardedChild(loop, None, argv=["python"], cwd="/", env={}, setup=SETUP, limits=Limits())
        assert theirs.recv(1) == b"", "so its warden ends"


def test_nothing_can_be_asked_of_a_child_that_is_gone(started: FakeWarden) -> None:
    started.end(0)
    started.turn()
    started.child.kill(Cause.STOPPED)
    started.child.listen(True)
    started.child.hold_output(False)
    started.child.watch(idle=True)
    started.turn()
    assert len(started.seen.exits) == 1 and repr(started.child) == f"<WardedChild pid {PID} gone>"
