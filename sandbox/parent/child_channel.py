"""The connection between the parent and one child, on which all messages but those of the warden travel.

FramedChannel is that of our own child: two sockets, in the frames of shared/channel.py. A program that is not
our own code has another one, runner/program/channel.py.
"""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..shared.channel import INLINE_MAX, ChannelError
from ..shared.message_format import Memfd, ProcessMessage, Wire
from ..shared.messages import FROM_CHILD, EndProcess, Reply, StopTask
from .frame_receiver import FrameReceiver
from .frame_sender import FrameSender
from .loop_protocol import LoopProtocol

OnMessage = Callable[[int, ProcessMessage], None]

#: Replies that the kernel keeps of a child that reads none, with their descriptors: of all that are under way
#: in a user's sockets, there may be no more than one process may have open. It takes some 50 of them here.
REPLIES_BYTES = 16 * 1024


class ChildChannel(Protocol):
    """What a handle of a child needs to exchange messages with it. Nothing blocks."""

    #: Whether the child writes its threads' stacks when the warden sends it the signal for that.
    tells_stacks: bool
    #: Whether TaskRead comes before send() returns, without names: they are found here.
    reads_at_once: bool

    def listen_with(
        self,
        on_message: OnMessage,
        on_error: Callable[[ChannelError], None],
        on_end: Callable[[bool], None],
    ) -> None:
        """Call these: with each message and its task; when what came was no message; at the end of the
        connection, with whether a message was cut off. Called before any other method."""

    def send(self, task: int, *messages: ProcessMessage) -> None:
        """Send messages of the task; a memfd stays the caller's."""

    def reply(self, task: int, wire: Wire) -> None:
        """Pass on a reply of the worker to a call of the code API; a memfd stays the caller's."""

    def stop(self, task: int, options: Mapping[str, object]) -> None:
        """Ask for the task to be stopped, with the options of the worker."""

    def exit(self, options: Mapping[str, object]) -> bool:
        """Ask for the child's end, with the options of the worker; False: the child cannot be asked."""

    @property
    def is_quiet(self) -> bool:
        """Whether all messages of the child were read, and the connection is open."""

    @property
    def has_ended(self) -> bool:
        """Whether the child has closed the connection, and all that it sent was read."""

    def resume(self) -> None:
        """Read what comes from here on; nothing is read before the first call."""

    def pause(self) -> None:
        """Read nothing until resume()."""

    def drain(self) -> None:
        """Read all that there is now, if reading has begun."""

    def close(self) -> None:
        """Close our end, and forget what was not written."""


class FramedChannel:
    """Our ends of the two sockets of our own child."""

    tells_stacks = True
    reads_at_once = False

    def __init__(self, loop: LoopProtocol, tasks: socket.socket, control: socket.socket) -> None:
        """Own the sockets: `tasks` is read by the child's main thread, `control` by its second one."""
        self._loop = loop
        self._tasks, self._control = tasks, control
        self._is_read_by_another = False  #: then what the child says of its end is true
        for one in (tasks, control):
            one.setblocking(False)
        control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REPLIES_BYTES)
        self._poll = select.poll()
        self._poll.register(tasks, select.POLLIN)
        self._to_main = FrameSender(loop, tasks)
        self._to_control = FrameSender(loop, control)

    def listen_with(
        self,
        on_message: OnMessage,
        on_error: Callable[[ChannelError], None],
        on_end: Callable[[bool], None],
    ) -> None:
        """See ChildChannel; a memfd in a message is the callee's to close."""
        self._said = FrameReceiver(
            self._loop, self._tasks, FROM_CHILD, on_message=on_message, on_error=on_error, on_end=on_end
        )

    def send(self, task: int, *messages: ProcessMessage) -> None:
        """Send messages on the task socket, with one write but for a memfd, which stays the caller's."""
        wire = getattr(messages[0], "wire", None)
        if isinstance(wire, Memfd):
            self._to_main.send_blob(task, messages[0].kind, wire)
            messages = messages[1:]
        if messages:
            self._to_main.send(task, *messages)

    def reply(self, task: int, wire: Wire) -> None:
        """Pass a reply of the worker to the control thread; a memfd stays the caller's."""
        if isinstance(wire, Memfd):
            self._to_control.send_blob(task, Reply.kind, wire)
        else:
            self._to_control.send(task, Reply(wire))

    def stop(self, task: int, options: Mapping[str, object]) -> None:
        """Have the user's stop() called."""
        self._to_control.send(task, StopTask(_as_json(options)))

    def exit(self, options: Mapping[str, object]) -> bool:
        """Have the user's stop() called if a task runs, then exit(), then the interpreter's shutdown."""
        self._to_control.send(0, EndProcess(_as_json(options)))
        # EOF on the task socket is what the main thread waits for between tasks.
        self._to_main.end()
        return True

    @property
    def is_quiet(self) -> bool:
        """Whether all messages of the child were read, and its socket is open."""
        return not self._poll.poll(0)

    @property
    def has_ended(self) -> bool:
        """Whether the child has closed its end of the task socket, and all that it sent was read."""
        return self._is_read_by_another or self._said.has_ended

    def resume(self) -> None:
        """Read what comes from here on."""
        self._said.resume()

    def pause(self) -> None:
        """Read nothing until resume()."""
        self._said.pause()

    def drain(self) -> None:
        """Read all that there is now, if reading has begun."""
        self._said.drain()

    def leave_to_another(self) -> int:
        """Read nothing any more; return the task socket, from which another process reads then."""
        self._said.close()
        self._is_read_by_another = True
        return self._tasks.fileno()

    def close(self) -> None:
        """Close both sockets, and forget what was not written."""
        self._to_main.drop()
        self._to_control.drop()
        self._said.close()
        for one in (self._tasks, self._control):
            one.close()


def _as_json(options: Mapping[str, object]) -> dict[str, Any]:
    """Return the options of a stop or an exit for the child; values that JSON lacks become text."""
    try:
        data = json.dumps(dict(options), default=str, skipkeys=True)
    except (ValueError, RecursionError):
        data = ""
    if 0 < len(data) < INLINE_MAX - 64:  # the name of the field comes on top
        found: dict[str, Any] = json.loads(data)
        return found
    known = ("forceStop", "exitCode")
    return {key: options[key] for key in known if isinstance(options.get(key), int)}
