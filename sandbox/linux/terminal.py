"""The mode of a terminal: saved, and restored after a debugger that died at its prompt."""

from __future__ import annotations

import contextlib
import signal
import termios
from typing import Any


class TerminalMode:
    """The mode that the terminal had when this was made."""

    def __init__(self, fd: int) -> None:
        """Save it; without a terminal there is nothing to save or restore."""
        self._fd = fd
        self._mode: list[Any] | None = None
        with contextlib.suppress(termios.error, OSError):
            self._mode = termios.tcgetattr(fd)

    def restore(self) -> None:
        """Set it again."""
        if self._mode is not None:
            # Without this a background process would be stopped by the call.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(self._fd, termios.TCSANOW, self._mode)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
