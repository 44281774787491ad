"""Recognizes a loop that repeats for ever what the brake refuses to it.

The kernel does not report that it has refused an allocation, nor how large it was. What can be seen is a
process that fills its memory up to the limit, frees it, and fills it again. Programs do so for good reasons,
too: one tries half as much after each refusal, another goes on to its next piece of work. Before it ends,
nothing distinguishes the second fill of such a program from that of an endless loop. So a process is taken
for one only where it comes to the limit again and again with nothing else in between. Each refusal that it is
allowed costs the time of one more fill, which may be seconds.
"""

from __future__ import annotations

import math

#: Whoever halves eight times of what fits after each refusal is refused so many times in a row ...
IN_A_ROW = 4
#: ... and more often only within this time.
IN_A_ROW_S = 1.0
#: Where that takes longer, so many in a row are allowed, and more within so much of its own time (OwnTime).
LEAST_IN_A_ROW = 2
OWN_S = 2.2
#: What is left of a round once it has ended, at most.
LEFT_SHARE = 1 / 4


class Attempts:
    """How often a process was held back in what may be one loop."""

    __slots__ = ("_in_a_row", "_left", "_most", "_most_in_a_row", "_own_s", "_since", "count")

    def __init__(self, most: int, most_in_a_row: int = IN_A_ROW) -> None:
        """`most`: whatever the process does in between, it is not held back more often.

        `most_in_a_row`: nor more often than this after IN_A_ROW_S if it does nothing in between.
        """
        self._most, self._most_in_a_row = most, most_in_a_row
        self.count = 0
        self._in_a_row = 0
        #: Time of the first one in a row, and the process's own time since then.
        self._since = self._own_s = 0.0
        self._left = 0

    def pass_time(self, own_s: float) -> None:
        """Add what has passed of the process's own time."""
        self._own_s += own_s

    def add(self, now: float, left: int = 0, tolerance: int = 0) -> None:
        """Count one more.

        `left`: what was left of the limit. Where that differs by more than `tolerance`, the process has asked
        for something else than before.
        """
        if not self.is_like_last(left, tolerance):
            self._in_a_row = 0
        self._left = left
        self.count += 1
        self._in_a_row += 1
        if self._in_a_row == 1:
            self._since, self._own_s = now, 0.0

    def is_like_last(self, left: int, tolerance: int) -> bool:
        """Whether so much was left the last time, too."""
        return abs(left - self._left) <= tolerance

    def interrupt(self) -> None:
        """Note that the process has done something else since."""
        self._in_a_row = 0

    def forget(self) -> None:
        """Begin anew: the process is in no loop."""
        self.count = self._in_a_row = 0

    def are_endless(self, now: float) -> bool:
        """Whether the next one, at this time, would be one too many."""
        is_row = self._in_a_row >= self._most_in_a_row and now - self._since >= IN_A_ROW_S
        is_slow_row = self._in_a_row >= LEAST_IN_A_ROW and self._own_s >= OWN_S
        return self.count >= self._most or is_row or is_slow_row


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
