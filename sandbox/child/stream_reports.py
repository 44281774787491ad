"""Reports of what goes wrong in a stream, also where there is no memory for the report.

Python 3.8 and newer.
"""

from __future__ import annotations

import time
from typing import Any, Callable, Optional, Set

#: What found no memory is tried again after this time.
RETRY_S = 0.05


class StreamReports:
    """Says what the user must know."""

    def __init__(self, report: Callable[[str, Optional[BaseException]], None]) -> None:
        self._report = report
        self._was_said: Set[str] = set()

    def say(self, text: str, error: Optional[BaseException] = None) -> None:
        """Report this; `error`: what has raised it."""
        with_memory(self._report, text, error)

    def say_once(self, text: str, error: Optional[BaseException] = None) -> None:
        """Report this, unless that was done before."""
        if text not in self._was_said:
            self._was_said.add(text)
            self.say(text, error)


def with_memory(step: Callable[..., object], *args: Any) -> None:
    """Do this, and again while there is no memory for it, which a listener may free.

    Without it, a thread of the stream would end, and what waits for it would wait for ever.
    """
    while True:
        try:
            step(*args)
            return
        except MemoryError:
            time.sleep(RETRY_S)
