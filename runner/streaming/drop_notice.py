"""Reports how many messages were dropped or lost for one reason."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Shortest interval between two reports.
SAY_EVERY_S = 5.0
DROPPED = "of the oldest messages were dropped: the next nodes are slower"
LOST = "messages of the algorithm are lost: there was no memory to read them"


class DropNotice:
    """Counts such messages, and reports each of them once."""

    def __init__(self, say: Callable[[str], None], what: str) -> None:
        """`what`: follows their number in the report."""
        self._say = say
        self._what = what
        self._say_at = 0.0
        self.count = 0  #: drops that were not reported yet

    def say_if_due(self, now: float) -> float | None:
        """Report the drops if it is time; return when to call again, None: not needed."""
        if not self.count:
            return None
        if now < self._say_at:
            return self._say_at
        self.say()
        return None

    def say(self) -> None:
        """Report the drops now."""
        if self.count:
            self._say(f"{self.count} {self._what}")
            self.count, self._say_at = 0, time.monotonic() + SAY_EVERY_S
