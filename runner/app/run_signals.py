"""The signals that end a run, reach its algorithm, or tell of processes that others have left to this one."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ...sandbox.linux import process_tree, procfs
from ..io.loop import Loop
from ..io.signals import STOP_SIGNALS, USER_SIGNALS

if TYPE_CHECKING:
    from .in_process import UserProcessAttachment


def hold_signals(loop: Loop) -> None:
    """Keep each of STOP_SIGNALS that arrives from here on until obey_signals() was called and the loop runs.

    Their default action would end this process and leave the folders that it has just made.
    """
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # SIGHUP is, under nohup
            loop.on_signal(number, lambda: None)


def obey_signals(
    loop: Loop,
    shutdown: Callable[[int], None],
    user_process: UserProcessAttachment | None = None,
    *,
    child_pids: Callable[[], list[int]] = list,
) -> None:
    """Have each of STOP_SIGNALS, and each signal that the user's process passes on, call shutdown(128 + N).

    child_pids: returns the algorithm's processes, which get the USER_SIGNALS that they handle.
    """
    if user_process is not None:
        user_process.interrupt = shutdown
    loop.on_signal(signal.SIGCHLD, partial(_look_after_children, loop))

    def received(number: int) -> None:
        passed_on = [pid for pid in child_pids() if number in USER_SIGNALS and _pass_on(number, pid)]
        if not passed_on:
            shutdown(128 + number)

    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # SIGHUP is, under nohup
            loop.on_signal(number, partial(received, number))


def _look_after_children(loop: Loop) -> None:
    from ...sandbox.parent.warded_child import look_after_children  # imported already where code runs

    look_after_children(loop)


def _pass_on(number: int, pid: int) -> bool:
    """Send the signal to the process if it handles it; return whether it does."""
    if pid == 0 or not procfs.handles_signal(pid, number):
        return False
    process_tree.signal_to(pid, number)
    return True
