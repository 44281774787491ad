"""The parent's handle on a socket process."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ...sandbox.parent import orphan_cleanup, warden_launch
from ...sandbox.parent.frame_receiver import FrameReceiver
from ...sandbox.parent.frame_sender import FrameSender
from ...sandbox.shared.channel import ChannelError
from ...sandbox.shared.message_format import Memfd, ProcessMessage
from ...sandbox.shared.stream_messages import (
    FROM_SOCKET_PROCESS,
    AttachChild,
    EndStream,
    OpenStream,
    StreamOpened,
    UpdateParents,
)
from ..io.loop import Loop, Timer

_START = os.path.join(os.path.dirname(os.path.abspath(__file__)), "start.py")
#: Have malloc reuse the memory of large messages instead of mapping it for each.
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "67108864", "MALLOC_TRIM_THRESHOLD_": "134217728"}
#: Buffer of a data socket, as far as the system allows: a large message takes fewer turns.
DATA_BYTES = 4 * 1024 * 1024
#: Items of a discovery update that a frame has room for, and the largest item: its two names may be long.
CHANGES_TOGETHER, CHANGE_MAX = 50, 20_000
#: Time for ZeroMQ to end, after the time for handing messages out.
ENDS_S = 3.0
MISSING = f"a stream pipeline needs the package pyzmq beside hkrunner: {sys.executable} -m pip install pyzmq"


class SocketProcessMissing(Exception):
    """The socket process cannot be started; the text says why, and what helps."""


class SocketProcessHandle:
    """One socket process, from its start to its end. Nothing here blocks."""

    def __init__(
        self,
        loop: Loop,
        opens: OpenStream,
        *,
        on_message: Callable[[ProcessMessage], None],
        on_end: Callable[[str], None],
    ) -> None:
        """Start it. `on_end`: called when it has ended, with how it ended; "" if it was asked to end.

        Raises SocketProcessMissing.
        """
        self._loop = loop
        self._on_message = on_message
        self._on_end = on_end
        self.is_ending = False  #: whether it was asked to end
        self._is_open = False
        self._waiting: list[Callable[[str], None]] = []
        self._kill: Timer | None = None
        self._look_again: Timer | None = None  #: after its socket was closed: checks whether it has ended
        found = importlib.util.find_spec("zmq")
        if found is None or found.origin is None:
            raise SocketProcessMissing(MISSING)
        folder = os.path.dirname(os.path.dirname(found.origin))
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-E", _START, str(theirs.fileno()), folder],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={**os.environ, **_MEMORY},
                    pass_fds=(theirs.fileno(),),
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise SocketProcessMissing(
                    f"no process for the sockets of the stream: {error.strerror or error}"
                ) from None
        orphan_cleanup.spare(self._process)
        ours.setblocking(False)
        self._socket = ours
        self._sender = FrameSender(loop, ours)
        self._receiver = FrameReceiver(
            loop,
            ours,
            FROM_SOCKET_PROCESS,
            on_message=lambda task, message: self._read_message(message),
            on_error=self._broken,
            on_end=lambda cut: self._ended(),
        )
        self._receiver.resume()
        self._sender.send(0, opens)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def when_open(self, callback: Callable[[str], None]) -> None:
        """Call back when its port is bound, with "", or with the reason why it cannot be bound."""
        if self._is_open:
            callback("")
        else:
            self._waiting.append(callback)

    def _read_message(self, message: ProcessMessage) -> None:
        if isinstance(message, StreamOpened):
            self._is_open = not message.problem
            self.is_ending = bool(message.problem)
            self._answer_waiting(message.problem)
        else:
            self._on_message(message)

    def _answer_waiting(self, problem: str) -> None:
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback(problem)

    def attach(self) -> socket.socket:
        """Have it serve a new child; return the child's end of the data socket, which the caller closes."""
        theirs, ours = socket.socketpair()
        with ours:
            for one in (theirs, ours):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, DATA_BYTES)
            self._sender.send_blob(0, AttachChild.kind, Memfd(ours.fileno(), 0))
        return theirs

    def update_parents(self, changes: Sequence[Any]) -> None:
        """Pass on a discovery update of the worker, or several that have come meanwhile."""
        for begin in range(0, len(changes), CHANGES_TOGETHER):
            together = changes[begin : begin + CHANGES_TOGETHER]
            self._sender.send(0, UpdateParents([_sendable(one) for one in together]))

    def catch_up(self) -> bool:
        """Read all that it has sent so far; return whether it has ended without having been asked to."""
        self._receiver.drain()
        return self._receiver.has_ended and not self.is_ending

    def end(self, most_s: float) -> None:
        """Have it hand out what is queued, for at most this long, and end; a second call may shorten it."""
        self.is_ending = True
        if self._look_again is not None:
            return  # it has just ended
        self._sender.send(0, EndStream(most_s))
        if self._kill is not None:
            self._kill.cancel()
        self._kill = self._loop.after(most_s + ENDS_S, self._process.kill)

    def _broken(self, error: ChannelError) -> None:
        self._process.kill()
        self._ended()

    def _ended(self) -> None:
        """Its socket is closed: it has ended, or is about to."""
        if not warden_launch.has_ended(self._process, 0.0):
            self._look_again = self._loop.after(0.02, self._ended)
            if self._kill is None:
                self._kill = self._loop.after(ENDS_S, self._process.kill)
            return
        if self._kill is not None:
            self._kill.cancel()
        status = self._process.wait()
        self._sender.drop()
        self._receiver.close()
        self._socket.close()
        how = "" if self.is_ending else f"the socket process of the stream ended ({_shown(status)})"
        self._answer_waiting(how)
        self._on_end(how)


def _sendable(change: Any) -> Any:
    """Return an item of a discovery update; one that no frame can hold as a text, which is reported."""
    try:
        if len(json.dumps(change)) <= CHANGE_MAX:
            return change
    except (TypeError, ValueError, RecursionError):  # the worker's encoding may have bytes, dates, …
        pass
    return f"{type(change).__name__}, too large or no JSON"


def _shown(status: int) -> str:
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return f"exit status {status}"
