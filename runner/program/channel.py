"""The channel to a program: its WebSocket, used as the supervisor uses the sockets of our own child.

    supervisor: Begin or Initialize, Start, stop, exit --> program: initialize, start, stop, exit
    supervisor: TaskRead, Initialized, Done, Failed, ApiCall <-- Conversation <-- program: its messages

The program connects to a port of ours (port.py) and is loaded with that; conversation.py says which of its
messages are passed on.
"""

from __future__ import annotations

import mmap
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ...sandbox.codec.codec import MESSAGE_LIMIT
from ...sandbox.parent.child_channel import OnMessage
from ...sandbox.shared.channel import ChannelError
from ...sandbox.shared.message_format import PROTOCOL_VERSION, Memfd, ProcessMessage, Wire
from ...sandbox.shared.messages import Begin, Initialize, Loaded, Start, TaskRead, UseFolder
from ...sandbox.shared.stream_messages import StreamStage
from ..io.loop import Loop
from ..protocol import encoding
from . import stream_task
from .connection import ProgramConnection
from .conversation import Conversation
from .port import ProgramPort
from .program_stream import ProgramStream
from .pulse import Pulse

#: A program that reports how many messages wait does so within this time; HKube's wrappers do it each 2 s.
REPORT_S = 5.0
#: A program that has returned hands out what the next nodes have not taken for at most this long, as one does
#: that HKube stops gracefully.
HAND_OUT_S = 600.0


class HandedOver(NamedTuple):
    """A task on its way to the program."""

    number: int
    initialize: bytes | memoryview


class ProgramChannel:
    """A ChildChannel (sandbox/parent/child_channel.py) to one program."""

    tells_stacks = False
    reads_at_once = True  #: so that no message waits while its task gets its record
    has_ended = False  #: not tracked: it does not tell how a program has ended

    def __init__(
        self,
        loop: Loop,
        wire_encoding: str,
        reported: set[str],
        *,
        message_s: float | None = None,
        most_bytes: int = MESSAGE_LIMIT,
    ) -> None:
        """`reported`: see Conversation. `message_s`: longest time for a message of a stream; None: any.
        `most_bytes`: of a message of the program.

        Raises OSError when no port is free.
        """
        self._loop = loop
        self._encoding = wire_encoding
        self._most_bytes = most_bytes
        #: Set once the program is being started: returns its processes.
        self.pids: Callable[[], Iterable[int]] = tuple
        self._start = encoding.encode(wire_encoding, {"command": "start", "data": {}})
        self._talk = Conversation(
            wire_encoding,
            self._tell,
            on_unsure=lambda: self.exit({"exitCode": 0}),
            on_returned=lambda: self._loop.after(REPORT_S, lambda: self._talk.hand_out(without_reports=True)),
            on_hand_out=self._hand_out,
            reported=reported,
        )
        self._port = ProgramPort(
            loop,
            wire_encoding,
            pids=lambda: self.pids(),
            on_connected=self._connected,
            on_refused=self._talk.report,
        )
        self._connection: ProgramConnection | None = None
        self._pulse = None if message_s is None else Pulse(loop, message_s, self._ping, self._is_silent)
        #: Kept for a program that has not connected yet: the task, ...
        self._waiting_task: HandedOver | None = None
        self._waiting: list[bytes] = []  #: ... and the messages that follow it
        self._is_paused = False
        self._is_ending = False

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables by which the program finds our port."""
        return self._port.variables

    def listen_with(
        self,
        on_message: OnMessage,
        on_error: Callable[[ChannelError], None],
        on_end: Callable[[bool], None],
    ) -> None:
        """See ChildChannel; a memfd in a message is the callee's to close."""
        self._on_message, self._on_error, self._on_end = on_message, on_error, on_end

    def _hand_out(self) -> None:
        self._say({"command": "stop", "data": {"forceStop": False}})
        task = self._talk.task
        self._loop.after(HAND_OUT_S, lambda: self._talk.end_handing_out(task))

    def _tell(self, task: int, message: ProcessMessage) -> None:
        self._on_message(task, message)

    # ---- messages of the supervisor

    def send(self, task: int, *messages: ProcessMessage) -> None:
        """Send these to the program, as HKube's worker does; a memfd stays the caller's."""
        place = next((one for one in messages if isinstance(one, (Begin, UseFolder))), None)
        for message in messages:
            if isinstance(message, (Begin, Initialize)):
                self._begin(task, message, place)
            elif isinstance(message, UseFolder) and message is messages[0]:
                self._talk.keep_in(message.folder, message.keep_max_bytes)
            elif isinstance(message, Start):
                self._talk.start()
                self._say_encoded(self._start)

    def _begin(self, task: int, message: Begin | Initialize, place: Begin | UseFolder | None) -> None:
        """Hand the task over; `place`: where its files are kept, if that is known before the task is read."""
        is_amid = False
        if self._connection is not None:
            self._connection.take_back()
            # What is unread, and what is amid, belongs to no task: no message says to which one.
            is_amid = self._connection.catch_up()
        self._talk.begin(task, is_amid=is_amid)
        if place is not None:
            self._talk.keep_in(place.folder, place.keep_max_bytes)
        given = HandedOver(task, _view_of(message.wire))
        if self._connection is None:
            self._waiting_task = given
        else:
            self._hand_over(self._connection, given)

    def _hand_over(self, connection: ProgramConnection, task: HandedOver) -> None:
        """Send `initialize`. The supervisor uses its memory again once it has TaskRead."""

        def sent() -> None:
            if self._talk.initialize_sent(task.number):
                stream = stream_task.read(self._encoding, task.initialize)
                self._on_message(task.number, TaskRead({}))  # the supervisor finds the names
                if stream is not None:
                    self._talk.stream = ProgramStream(stream.children)
                    self._on_message(task.number, stream)
                    if self._pulse is not None:
                        self._pulse.begin()
                self._talk.files.write_input(task.initialize)

        connection.send(task.initialize, sent)

    def reply(self, task: int, wire: Wire) -> None:
        """Pass on a reply of the worker to a call of the code API; a memfd stays the caller's."""
        if self._connection is not None:
            view = _view_of(wire)  # a mapping has a descriptor
            self._connection.send(bytes(view) if self._connection.is_behind else view)

    def stop(self, task: int, options: Mapping[str, object]) -> None:
        """Send `stop`, with the options of the worker."""
        self._talk.stop(in_order=options.get("forceStop") is False)
        self._say({"command": "stop", "data": dict(options)})

    def exit(self, options: Mapping[str, object]) -> bool:
        """Send `stop` if a task runs, then `exit`, then close; False: it has not connected."""
        if self._connection is None:
            return False
        if self._is_ending:
            return True
        self._is_ending = True
        if self._talk.has_task:
            self.stop(0, {"forceStop": True})
        self._say({"command": "exit", "data": dict(options)})
        self._connection.say_close()
        return True

    def _say(self, message: dict[str, Any]) -> None:
        self._say_encoded(encoding.encode(self._encoding, message))

    def _say_encoded(self, wire: bytes) -> None:
        if self._connection is None:
            self._waiting.append(wire)
        else:
            self._connection.send(wire)

    # ---- the connection

    def _connected(self, sock: socket.socket) -> None:
        """Use the connection of the program, which counts as loaded now."""
        connection = self._connection = ProgramConnection(
            self._loop,
            sock,
            text=encoding.is_text(self._encoding),
            most_bytes=self._most_bytes,
            on_message=self._talk.take,
            is_more_due=lambda: self._talk.is_more_due,
            on_error=lambda text: self._on_error(ChannelError(text)),
            on_end=self._ended,
            on_pong=self._on_pong,
        )
        if not self._is_paused:
            connection.resume()
        task, self._waiting_task = self._waiting_task, None
        waiting, self._waiting = self._waiting, []
        self._on_message(0, Loaded(PROTOCOL_VERSION, ["start", "init", "stop", "exit"], "", {}))
        if task is not None:
            self._hand_over(connection, task)
        for wire in waiting:
            connection.send(wire)

    def _ping(self) -> None:
        if self._connection is not None and self._talk.stream is not None:
            self._connection.ping()

    def _on_pong(self) -> None:
        if self._pulse is not None:
            self._pulse.answered()

    def _is_silent(self) -> None:
        """No pong has come in time: the program is handling a message of the stream for too long."""
        assert self._pulse is not None, "it calls this"
        if self._is_paused:
            self._pulse.begin()  # nothing was read
        elif self._talk.stream is not None and self._talk.has_task:
            self._on_message(self._talk.task, StreamStage("overdue"))

    def _ended(self, cut: bool) -> None:
        if not self._is_ending:
            self._on_end(cut)

    @property
    def is_quiet(self) -> bool:
        """Whether all that the program sent was read."""
        return self._connection is not None and self._connection.is_quiet

    def resume(self) -> None:
        """Read what comes from here on; the first call opens the port."""
        self._is_paused = False
        self._port.open()
        if self._connection is not None:
            self._connection.resume()

    def pause(self) -> None:
        """Read nothing until resume()."""
        self._is_paused = True
        if self._connection is not None:
            self._connection.pause()

    def drain(self) -> None:
        """Read all that there is now."""
        if self._connection is not None:
            self._connection.drain()

    def close(self) -> None:
        """Close the port and the connection."""
        self._port.close()
        self._talk.close()
        if self._pulse is not None:
            self._pulse.end()
        if self._connection is not None:
            self._connection.close()


def _view_of(wire: Wire) -> bytes | memoryview:
    """Return the bytes of a message, which stay there when its descriptor is closed."""
    if isinstance(wire, Memfd):
        return memoryview(mmap.mmap(wire.fd, wire.size, prot=mmap.PROT_READ))
    return wire
