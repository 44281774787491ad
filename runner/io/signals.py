"""Signals, independent of the mask and the dispositions that this process has inherited."""

from __future__ import annotations

import signal

#: Signals after which hkrunner shuts down: stop(), the grace, exit(), complete records.
STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
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
