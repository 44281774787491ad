"""How a child ended, from what its warden, the kernel and faulthandler said."""

from __future__ import annotations

import os
import pickle
import signal

import pytest
from hkrunner.sandbox.child import exit_stack, task_server
from hkrunner.sandbox.linux.process_tree import ENDED, HELPER, Left
from hkrunner.sandbox.parent.exit_report import exit_of, exit_without_warden, user_stack, with_stack
from hkrunner.sandbox.shared.limits import Limits
from hkrunner.sandbox.shared.messages import Account, Ended, HeldBack
from hkrunner.sandbox.shared.outcome import Cause, Exit, LimitBreach, sentence

MI = 1 << 20


def cause_of(status: int, ago_s: float) -> Cause:
    """Return the cause of an end with this wait status, so long after memory was refused."""
    held = HeldBack(7, "python", 0, 250 * MI, ago_s)
    account = Account(0, 0, 0.0, False, False, [], 0, [], 0, held_back=held)
    return exit_of(
        Ended(status, False, None, [], 0, [], 0, account),
        pid=7,
        problem="",
        is_refused=False,
        kill=None,
        channel_closed=False,
        task_began=0.0,
        oom_in_task=False,
        limits=Limits(memory_bytes=256 * MI),
        loaded=True,
    ).cause


@pytest.mark.parametrize(
    ("status", "ago_s", "cause"),
    [
        (1 << 8, 0.4, Cause.MEMORY),
        (1 << 8, 0.6, Cause.EXITED),
        (0, 0.1, Cause.EXITED),
        (signal.SIGABRT, 1.5, Cause.MEMORY),
        (signal.SIGSEGV, 2.5, Cause.SIGNALLED),
        (signal.SIGTERM, 0.1, Cause.SIGNALLED),
    ],
)
def test_an_end_just_after_refused_memory_is_due_to_it(status: int, ago_s: float, cause: Cause) -> None:
    assert os.WIFEXITED(status) or os.WIFSIGNALED(status)
    assert cause_of(status, ago_s) is cause


def test_without_a_warden_too_only_what_was_still_running_counts_as_left() -> None:
    ended = [Left(7, "python", 0), Left(8, "sleep", 1), Left(9, HELPER, 0), Left(10, ENDED, 0)]
    exit = exit_without_warden(
        "it ended unexpectedly", pid=7, problem="", kill=None, ended=ended, left=[], loaded=True
    )
    assert ([one.pid for one in exit.others], exit.others_count) == ([8], 1)


def test_threads_that_have_no_python_frame_are_not_in_the_stack() -> None:
    begun = "Thread 0x01 (most recent call first):\n  <no Python frame>"
    works = 'Thread 0x02 (most recent call first):\n  File "/home/me/alg.py", line 3 in start'
    assert user_stack(f"{begun}\n\n{works}\n\n{begun}") == works


def test_whoever_calls_os_exit_without_an_error_at_hand_has_decided_so_itself() -> None:
    head, users = "Stack (most recent call first):", '  File "/home/me/alg.py", line 3 in start'
    ours = [f'  File "{one.__file__}", line 30 in f' for one in (exit_stack, task_server)]
    stack = user_stack("\n".join((head, ours[0], users, ours[1])))
    assert stack == f"{head}\n{users}"
    refused = Exit(Cause.MEMORY, code=3, breach=LimitBreach(250 * MI, 256 * MI, is_refusal=True))
    assert sentence(with_stack(refused, stack)) == (
        "EXITED: the algorithm ended its process with code 3 before answering (alg.py:3 in start); at 250 MiB"
        " of 256 MiB (--mem) it may have been refused memory. Try --mem 512Mi"
    )
    of_an_error = user_stack(exit_stack.IN_AN_ERROR.decode() + stack)
    for one in (of_an_error, ""):
        assert with_stack(refused, one).cause is Cause.MEMORY


def test_os_exit_can_be_pickled_for_a_process_that_is_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "_exit", os._exit)
    exit_stack.write_exit_stack(2)
    assert pickle.loads(pickle.dumps(os._exit)) is os._exit
