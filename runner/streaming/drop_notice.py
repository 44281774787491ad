"""Says how many messages of a full queue were dropped."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Drops are said at most this often.
SAY_EVERY_S = 5.0


class DropNotice:
    """Counts drops, and says each of them once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._say_at = 0.0
        self.count = 0  #: drops that are not said yet

    def say_if_due(self, now: float) -> float | None:
        """Say what was not said; return when to call again, None: not needed."""
        if not self.count:
            return None
        if now < self._say_at:
            return self._say_at
        self.say()
        return None

    def say(self) -> None:
        """Say what was not said, now."""
        if self.count:
            self._say(f"{self.count} of the oldest messages were dropped: the next nodes are slower")
            self.count, self._say_at = 0, time.monotonic() + SAY_EVERY_S
