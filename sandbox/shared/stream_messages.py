"""The messages of a streaming task: how its child gets a data socket, and what the parent says to the process
that holds the ZeroMQ sockets, the *socket process*.

    child -> parent             AskStream                                      (task socket)
    parent -> child             UseStream, StreamRefused                       (task socket)
    parent -> socket process    OpenStream, AttachChild, UpdateParents, EndStream
    socket process -> parent    StreamOpened, StreamStatistics, StreamStage, StreamProblem

The messages of the stream itself take another way: see stream_frames.py. This module also runs inside the
child, on Python 3.8 and newer.
"""

from __future__ import annotations

from typing import Any, Dict, List, Type

from .message_format import ProcessMessage, Wire


class AskStream(ProcessMessage):
    """The task is part of a stream pipeline: the child waits for UseStream."""

    kind = 28
    job: str
    node: str
    parents: List[str]
    children: List[str]
    in_turn: bool  #: whether the child handles one message at a time, whichever node it comes from


class UseStream(ProcessMessage):
    """The data socket; the descriptor travels as that of a memfd would."""

    kind = 11
    wire: Wire


class StreamRefused(ProcessMessage):
    """There is no data socket: `text` says why. Empty: HKube's debug server carries the messages."""

    kind = 12
    text: str


class OpenStream(ProcessMessage):
    """Be this node of a stream: bind the port if there are next nodes. The answer is StreamOpened."""

    kind = 64
    node: str
    children: List[str]
    encoding: str  #: of messages: bson or msgpack
    host: str  #: "*" or an address
    port: int
    buffer_bytes: int
    statistics_s: float
    in_turn: bool  #: see AskStream
    message_s: float  #: longest time that the child may take for a message; 0: any


class AttachChild(ProcessMessage):
    """A child is at the other end of this socket; the one before has ended."""

    kind = 65
    wire: Wire


class UpdateParents(ProcessMessage):
    """Connect to parent nodes, and disconnect: the data of HKube's `serviceDiscoveryUpdate`."""

    kind = 66
    changes: List[Any]


class EndStream(ProcessMessage):
    """Fetch nothing more, hand out what is queued for at most this long, then end."""

    kind = 67
    most_s: float


class StreamOpened(ProcessMessage):
    """The port is bound; or `problem` says why it is not, and the process ends."""

    kind = 72
    problem: str = ""


class StreamStatistics(ProcessMessage):
    """The data of HKube's `streamingStatistics`."""

    kind = 73
    items: List[Any]


class StreamStage(ProcessMessage):
    """How far the end of the task is. "quiesced": the last message that was fetched is done; "draining": the
    child waits until the next nodes have taken all messages; "drained": they have. "overdue": a message takes
    longer than it may."""

    kind = 74
    stage: str


class StreamProblem(ProcessMessage):
    """Something that the user must know of: messages that were dropped or lost."""

    kind = 75
    text: str


def _by_kind(*messages: Type[ProcessMessage]) -> Dict[int, Type[ProcessMessage]]:
    return {one.kind: one for one in messages}


#: What each side takes from the other: any other kind is a protocol error.
TO_SOCKET_PROCESS = _by_kind(OpenStream, AttachChild, UpdateParents, EndStream)
FROM_SOCKET_PROCESS = _by_kind(StreamOpened, StreamStatistics, StreamStage, StreamProblem)
