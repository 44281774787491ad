"""Where asyncio's tasks wait, written behind the stacks of faulthandler, which sees only the loop that waits.

Python 3.8 and newer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Any

#: Most tasks that are written, and most frames of each.
TASKS_MAX = 20
FRAMES_MAX = 50


def write_await_stacks(number: int, fd: int) -> None:
    """Have this signal write to the descriptor what the tasks of the running loop await, then an empty line.

    Called before faulthandler.register(chain=True): the stacks of the threads come first. The handler runs in
    the main thread, which wakes up for it where it waits in a selector. The warden waits for the empty line.
    """

    def handler(number: int, frame: object) -> None:
        text = ""
        with contextlib.suppress(Exception):  # whatever the user's code has made of asyncio
            text = _stacks()
        with contextlib.suppress(OSError):
            os.write(fd, text.encode("utf-8", "backslashreplace") + b"\n")

    signal.signal(number, handler)


def _stacks() -> str:
    asyncio: Any = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    if loop is None or asyncio.current_task(loop) is not None:
        return ""  # no loop waits: the line is in the stack of the thread
    ours = ("init", "start")  # first
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name() not in ours)
    return "".join(_stack(task) for task in tasks[:TASKS_MAX])


def _stack(task: Any) -> str:
    frames: list[str] = []
    inner = task.get_coro()
    while inner is not None and len(frames) < FRAMES_MAX:
        frame = next(
            (one for name in ("cr_frame", "gi_frame", "ag_frame") if (one := getattr(inner, name, None))),
            None,
        )
        if frame is not None:
            frames.insert(
                0, f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}\n'
            )
        inner = next(
            (one for name in ("cr_await", "gi_yieldfrom", "ag_await") if (one := getattr(inner, name, None))),
            None,
        )
    return f"\nTask {task.get_name()} (most recent call first):\n" + "".join(frames) if frames else ""
