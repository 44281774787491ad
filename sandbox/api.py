"""The object handed to start(args, api)."""

from __future__ import annotations

import threading


class Api:
    """What an algorithm may ask of its runner while a task runs."""

    def __init__(self) -> None:
        self._stopping = threading.Event()

    @property
    def stopping(self) -> bool:
        """True once a stop was asked for: a long loop that looks at it can end early and cleanly."""
        return self._stopping.is_set()

    def wait_for_stop(self, timeout_s: float | None = None) -> bool:
        """Wait until a stop is asked for, at most this long; True if it was."""
        return self._stopping.wait(timeout_s)
