"""Signals, independent of the mask and the dispositions that this process has inherited."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

#: Signals after which hkrunner shuts down: stop(), the grace, exit(), complete records.
#: As in sandbox/shared/stop_signals.py, whose import would delay the start of every command.
STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,  # of a batch system, before it kills
)
#: Signals without a meaning of their own: an algorithm that handles them gets them instead.
USER_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
#: Python ignores these itself. SIGHUP stays ignored under nohup, which asks for exactly that.
_MAY_STAY_IGNORED = frozenset((signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP))


def reset_inherited_signals() -> None:
    """Unblock every signal, and give those that are ignored their default action.

    Both are inherited through fork and exec. With SIGCHLD blocked or ignored, the end of a process would go
    unnoticed or its status be lost; with SIGINT ignored, as a shell script does it for what it starts with
    `&`, Ctrl-C and `kill -INT` would do nothing. Main thread only.
    """
    for number in signal.valid_signals():
        if number not in _MAY_STAY_IGNORED and signal.getsignal(number) is signal.SIG_IGN:
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Have the first signal that ends hkrunner raise an exception, so that nothing half made is left."""
    if threading.current_thread() is not threading.main_thread():
        yield  # of another program: it keeps its handlers
        return
    old: dict[int, Any] = {}

    def interrupted(number: int, frame: FrameType | None) -> NoReturn:
        for caught in old:  # what was begun is cleaned up, which does not take long
            signal.signal(caught, lambda number, frame: None)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    try:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                old[number] = signal.getsignal(number)
                signal.signal(number, interrupted)
        yield
    finally:
        for caught, handler in old.items():
            signal.signal(caught, handler)


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Have the signals that end hkrunner wait for the end of the block, which raises their exception.

    For the start of a process: an exception before Popen() has returned would leave it to nobody.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old: dict[int, Any] = {}
    noted: list[int] = []
    try:
        for number in STOP_SIGNALS:
            if callable(signal.getsignal(number)):
                old[number] = signal.signal(number, lambda number, frame: noted.append(number))
        yield
    finally:
        for caught, handler in old.items():
            signal.signal(caught, handler)
        for one in noted:
            signal.raise_signal(one)
