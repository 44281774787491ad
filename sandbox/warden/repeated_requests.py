"""Recognizes a loop that repeats for ever what the brake refuses to it.

The kernel does not report that it has refused an allocation. What can be seen is a process that fills its
memory up to the limit, frees it, and fills it again. Programs do so for good reasons, too: one tries less
after each refusal, another goes on to its next piece of work. So it is taken for an endless loop only where
it comes to the limit again and again with nothing else in between, or very often.
"""

from __future__ import annotations

import math

#: Whoever tries less after a refusal may be refused so often in a row without any other work in between ...
IN_A_ROW = 2
#: ... and more often only within this time.
IN_A_ROW_S = 1.0
#: What is left of a round once it has ended, at most.
LEFT_SHARE = 1 / 4


class Attempts:
    """How often a process was held back in what may be one loop."""

    __slots__ = ("_in_a_row", "_most", "_since", "count")

    def __init__(self, most: int) -> None:
        """`most`: whatever the process does in between, it is not held back more often."""
        self._most = most
        self.count = 0
        self._in_a_row = 0
        self._since = 0.0  #: time of the first one in a row

    def add(self, now: float) -> None:
        """Count one more."""
        self.count += 1
        self._in_a_row += 1
        if self._in_a_row == 1:
            self._since = now

    def interrupt(self) -> None:
        """Note that the process has done something else since."""
        self._in_a_row = 0

    def forget(self) -> None:
        """Begin anew: the process is in no loop."""
        self.count = self._in_a_row = 0

    def are_endless(self, now: float) -> bool:
        """Whether the next one, at this time, would be one too many."""
        is_row = self._in_a_row >= IN_A_ROW and now - self._since >= IN_A_ROW_S
        return self.count >= self._most or is_row


class Tops:
    """Finds where the memory of a process has turned back: where it grew much, and then freed as much."""

    __slots__ = ("_falls", "_least", "_level", "_room")

    def __init__(self, least_bytes: int) -> None:
        """`least_bytes`: less than that is no growth, and not freed."""
        self._least = least_bytes
        self._falls = True
        self._level = 0  #: the lowest since the last top, or the highest since that
        self._room = 0  #: the least since then: while much is unmapped, what is reserved shrinks last

    def turned_back(self, level: int, room: int) -> int | None:
        """Return the least that was left, as of the first call that finds it turned back; else None.

        `level`: its memory now, `room`: what is left to it now.
        """
        if self._falls:
            self._level = min(self._level, level)
            if level < self._level + self._least:
                return None
            self._falls, self._room = False, room
        self._room = min(self._room, room)
        self._level = max(self._level, level)
        if level > self._level - self._least:
            return None
        self._falls, self._level = True, level
        return self._room


class Rounds:
    """Finds when a process has freed nearly all that it had taken since, as at the end of a piece of work.

    To grow an array by copying it takes and frees memory all the time: that is one round.
    """

    __slots__ = ("_bottom", "_least", "_room", "_top")

    def __init__(self, least_bytes: int) -> None:
        """`least_bytes`: less than that is no round."""
        self._least = least_bytes
        self._bottom: float = math.inf
        self._top: float = 0
        self._room = 0

    def ended(self, level: int, room: int) -> int | None:
        """Return the least that was left in the round that has just ended; None: none has. As for Tops."""
        height = self._top - self._bottom
        if height >= self._least and level <= self._bottom + height * LEFT_SHARE:
            least, self._room = self._room, room
            self._bottom = self._top = level
            return least
        if level < self._bottom:
            self._bottom, self._top, self._room = level, level, room
        self._top, self._room = max(self._top, level), min(self._room, room)
        return None
