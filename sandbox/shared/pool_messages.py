"""The messages of hkrunner.Pool: to and from a worker, in addition to those of messages.py.

    parent -> worker           UseFunction                       (task socket, after Setup)
    user's process -> worker   RunTask                           (task socket, after Loaded)
    worker -> user's process   Recalled, and Done or Failed

This module also runs inside the child, on Python 3.8 and newer.
"""

from __future__ import annotations

from typing import Dict, Type

from .message_format import ProcessMessage, Wire
from .messages import TO_CHILD


class UseFunction(ProcessMessage):
    """The function of the Pool, pickled by the user's process; sent if Setup names no code."""

    kind = 6
    wire: Wire


class RunTask(ProcessMessage):
    """A task: the pickled arguments of the function, or an `initialize` message for an algorithm's file."""

    kind = 7
    wire: Wire


class Recalled(ProcessMessage):
    """The task was not begun: it was recalled before (see task_marks.py)."""

    kind = 27


TO_WORKER: Dict[int, Type[ProcessMessage]] = {
    **TO_CHILD,
    UseFunction.kind: UseFunction,
    RunTask.kind: RunTask,
}
