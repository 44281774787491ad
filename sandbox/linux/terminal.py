"""Saves the mode of a terminal, and restores it after a debugger was killed at its prompt."""

from __future__ import annotations

import contextlib
import signal
import termios
from typing import Any


class TerminalMode:
    """The mode that the terminal had when this was made."""

    def __init__(self, fd: int) -> None:
        """Save the mode; without a terminal, neither this nor restore() does anything."""
        self._fd = fd
        self._mode: list[Any] | None = None
        with contextlib.suppress(termios.error, OSError):
            self._mode = termios.tcgetattr(fd)

    def restore(self) -> None:
        """Set the saved mode."""
        if self._mode is not None:
            # SIGTTOU would stop a process in the background at this call.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(self._fd, termios.TCSANOW, self._mode)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
