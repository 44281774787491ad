"""Asks a program again and again whether it still handles what comes: whether it answers a ping in time.

hkrunner does not see the messages that a program of a stream handles: it has the ZeroMQ sockets itself. But
as a rule the same event loop serves its WebSocket, and stands still while one message is handled.
"""

from __future__ import annotations

from collections.abc import Callable

from ..io.loop import Loop

#: The next ping follows a pong after this time, or after a shorter limit.
PAUSE_S = 1.0
#: A pong may wait for two messages that take the whole time each: the loop may serve either socket first.
MESSAGES = 2


class Pulse:
    """The pings to one program."""

    def __init__(
        self, loop: Loop, limit_s: float, ping: Callable[[], None], on_silence: Callable[[], None]
    ) -> None:
        """`limit_s`: longest time for a message. `on_silence`: a ping was not answered while MESSAGES of them
        could be handled; called only for a program that has answered one before."""
        self._limit_s = limit_s
        self._ping = ping
        self._on_silence = on_silence
        self._alarm = loop.alarm(self._due)
        self._is_waiting = False  #: for a pong
        self._has_answered = False

    def begin(self) -> None:
        """Ask from here on."""
        self._is_waiting = True
        self._ping()
        self._alarm.set(MESSAGES * self._limit_s)

    def answered(self) -> None:
        """A pong has come."""
        if self._is_waiting:
            self._is_waiting, self._has_answered = False, True
            self._alarm.set(min(PAUSE_S, self._limit_s))

    def end(self) -> None:
        """Ask no more."""
        self._is_waiting = False
        self._alarm.cancel()

    def _due(self) -> None:
        if not self._is_waiting:
            self.begin()
        elif self._has_answered:
            self._is_waiting = False
            self._on_silence()
