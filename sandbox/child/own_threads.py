"""Threads of ours that are not in threading.enumerate(), and that gevent does not replace.

gevent.monkey.patch_all(), which an entry calls when it is imported, adapts the locks of the import system
only if it finds no other thread. From then on threading.Thread makes greenlets, which run when the thread
that made them waits in gevent's own way; the control thread never does. Python 3.8 and newer.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from _thread import RLock as RLock  # these are bound before user code can replace them
from _thread import allocate_lock as allocate_lock
from _thread import start_new_thread
from select import poll as poll  # for those who are imported later, when gevent may have replaced it
from threading import get_ident
from types import SimpleNamespace
from typing import Any, Callable, Optional, Tuple, Union

#: Starts a thread of the system; raises RuntimeError. notice_lost_threads() has it try again near the brake.
start_thread: Callable[[Callable[[], object], Tuple[()]], object] = start_new_thread


#: The time that wait_for() waits each time.
LOOK_S = 60.0


def are_replaced() -> bool:
    """Whether threads of the module `threading` are none of the system's any more."""
    return threading.get_ident is not get_ident


def new_thread(target: Callable[..., object], args: Tuple[Any, ...], name: str) -> AnyThread:
    """Return a daemon thread that runs this beside all others, whoever has replaced the threads; not started.

    For code that begins with the user's: what is there before is to be started by start_thread().
    """
    if are_replaced():
        return OwnThread(target, args, name)
    return threading.Thread(target=target, args=args, name=name, daemon=True)


def wait_for(event: threading.Event, timeout: Optional[float] = None) -> bool:
    """As event.wait(), for an event that a message of the parent's sets, or another thread of the system.

    It always waits for a time: after memory was refused, the warden takes a wait without one for a wait that
    may last for ever (warden/deadlock_watch.py). Where gevent has replaced it, such a wait raises LoopExit:
    gevent knows nobody who could set the event.
    """
    if timeout is not None:
        return event.wait(timeout)
    while not event.wait(LOOK_S):
        pass
    return True


def show_error(name: str) -> None:
    """Report the error that is handled, as threading.Thread does where it ends the thread of this name."""
    told = (*sys.exc_info(), SimpleNamespace(name=name))
    threading.excepthook(threading.ExceptHookArgs(told))


class OwnThread:
    """A thread of the system that runs a function once."""

    def __init__(self, target: Callable[..., object], args: Tuple[Any, ...], name: str) -> None:
        """`name`: while the user's code runs in it."""
        self._target, self._args, self._name = target, args, name
        self._runs = allocate_lock()

    def start(self) -> None:
        """Begin. Raises RuntimeError."""
        self._runs.acquire()
        start_thread(self._run, ())

    def _run(self) -> None:
        try:
            with contextlib.suppress(Exception):  # whatever has replaced it
                threading.current_thread().name = self._name
            self._target(*self._args)
        except Exception:  # noqa: BLE001 - no memory, most likely
            show_error(self._name)
        finally:
            self._runs.release()

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._runs.locked()

    def join(self) -> None:
        """Wait for its end."""
        with self._runs:
            pass


AnyThread = Union[threading.Thread, OwnThread]
