"""Connects to the worker, with a time limit for each attempt and a pause between two attempts."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from ..io.loop import Loop, Timer
from .connect import CONNECT_TIMEOUT_S, Attempt

#: Pauses before each attempt after a drop: the first is zero, the last one is repeated.
BACKOFF_S = (0.0, 0.01, 0.02, 0.05, 0.05, 0.1, 0.1, 0.2, 0.3, 0.5, 1.0)
#: After a connection that was up for this long, or had an answer to send, begin with the first pause again.
STEADY_S = 1.0


class ConnectionState(Enum):
    """The state of the link."""

    DISCONNECTED = auto()
    CONNECTING = auto()
    OPEN = auto()
    BACKOFF = auto()
    CLOSED = auto()  #: for good


class Connector:
    """Makes the connections to one URL, one after the other, and knows the state of the link."""

    def __init__(
        self,
        loop: Loop,
        url: str,
        connect_timeout_s: float | None,
        *,
        on_connected: Callable[[Any, int | None], None],
        on_failed: Callable[[], None],
        on_unreachable: Callable[[str], None],
        on_given_up: Callable[[str], None],
        greet: Callable[[socket.socket], None] | None = None,
    ) -> None:
        """`connect_timeout_s`: give up after this time without a worker; None: never.

        `greet`: see Attempt.

        on_connected(client of websocket-client, number of the listening socket that took the connection).
        on_failed: an attempt has failed. on_unreachable(reason): there is no worker yet; attempts go on;
        on_given_up(reason): they do not.
        """
        self._loop = loop
        self._url = url
        self._connect_timeout_s = connect_timeout_s
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._on_unreachable = on_unreachable
        self._on_given_up = on_given_up
        self._greet = greet
        self.state = ConnectionState.DISCONNECTED
        self._attempt: Attempt | None = None
        self._has_begun = False  #: whether the first attempt was made
        self._tries = 0  #: attempts since a connection has last been of use
        self._since = 0.0  #: when the last connection was made, or lost
        self._timer: Timer | None = None  #: the end of the attempt, or of the pause

    def begin(self) -> None:
        """Make the first attempt. Raises RuntimeError where no thread can be started for it."""
        assert self.state is ConnectionState.DISCONNECTED
        self._since = self._loop.clock()
        self._connect()
        self._has_begun = True

    def _connect(self) -> None:
        self.state = ConnectionState.CONNECTING
        try:
            self._attempt = Attempt(self._loop, self._url, self._connected, self._failed, self._greet)
        except RuntimeError as error:
            if not self._has_begun:
                raise  # the limit was there before any algorithm: another attempt would not help
            reason = str(error)  # the algorithm may have used up the container's threads
            self._timer = self._loop.after(0, lambda: self._failed(reason))
        else:
            self._set_patience()

    def _set_patience(self) -> None:
        patience_s = CONNECT_TIMEOUT_S
        if self._connect_timeout_s is not None:
            patience_s = min(patience_s, max(self._connect_timeout_s - self._waited_s, 0.05))
        self._timer = self._loop.after(patience_s, self._overdue)

    @property
    def _waited_s(self) -> float:
        """The seconds without a worker so far."""
        return self._loop.clock() - self._since

    @property
    def _is_timed_out(self) -> bool:
        return self._connect_timeout_s is not None and self._waited_s >= self._connect_timeout_s

    def _overdue(self) -> None:
        """End an attempt that takes too long: a peer could send its handshake byte by byte, without end."""
        assert self._attempt is not None, "the timer was set with it"
        if self._is_timed_out or self._attempt.has_socket:
            self._attempt.give_up()
            self._failed("no answer in time")
        else:
            # The system ends a lookup of a name or a TCP connect by itself. A second attempt before that
            # could result in two sockets.
            self._on_unreachable("no answer in time")
            self._set_patience()

    def _connected(self, client: Any) -> None:
        assert self._timer is not None and self._attempt is not None, "both were set with the attempt"
        self._timer.cancel()
        listener = self._attempt.listener
        self._attempt = None
        self.state = ConnectionState.OPEN
        self._since = self._loop.clock()
        self._on_connected(client, listener)

    def _failed(self, reason: str) -> None:
        assert self._timer is not None, "it was set with the attempt"
        self._timer.cancel()
        self._attempt = None
        self._on_failed()
        if self._is_timed_out:
            self.state = ConnectionState.CLOSED
            self._on_given_up(reason)
            return
        # Processes that have lost the same worker must not all reconnect at the same moment.
        pause_s = self._next_pause_s() * random.uniform(0.8, 1.2)
        if self._connect_timeout_s is not None:
            pause_s = min(pause_s, max(self._connect_timeout_s - self._waited_s, 0.0))
        self._pause(pause_s)
        self._on_unreachable(reason)

    def _next_pause_s(self) -> float:
        pause_s = BACKOFF_S[min(self._tries, len(BACKOFF_S) - 1)]
        self._tries += 1
        return pause_s

    def _pause(self, seconds: float) -> None:
        self.state = ConnectionState.BACKOFF
        self._timer = self._loop.after(seconds, self._connect)

    def was_of_use(self) -> None:
        """Begin with the shortest pause after the next drop: a task has its answer."""
        self._tries = 0

    def dropped(self) -> None:
        """The connection is lost."""
        now = self._loop.clock()
        if now - self._since >= STEADY_S:
            self._tries = 0
        self._since = now
        self.state = ConnectionState.DISCONNECTED

    def connect_again(self, least_s: float) -> None:
        """Connect again after a pause of at least this length."""
        self._pause(max(self._next_pause_s(), least_s))

    def close(self) -> None:
        """Make no further attempt."""
        if self._timer is not None:
            self._timer.cancel()
        if self._attempt is not None:
            self._attempt.give_up()
            self._attempt = None
        self.state = ConnectionState.CLOSED
