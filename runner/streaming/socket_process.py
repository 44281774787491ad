"""The socket process of a streaming task: it holds the ZeroMQ sockets of a node, and serves one child.

    next nodes   <- ROUTER - Producer <- MessageQueue <- SEND    <- ChildLink <- child
    parent nodes -> DEALER - Consumer                 -> MESSAGE -> ChildLink -> child

It is not the child, which runs the user's code, may hang or be killed, and is replaced: what the next nodes
have not taken stays here, and so does what was fetched and the last child had not begun. It is not the
parent, whose loop serves the worker. The parent says what to do over a socket; at its end this process ends.

One thread. Each turn waits for all sockets, reads them as far as they go, and writes to the child.
"""

from __future__ import annotations

import math
import os
import socket
import struct
import sys
import time
from typing import Any

import zmq

from ...sandbox.codec import codec
from ...sandbox.shared import stream_frames
from ...sandbox.shared.channel import ChannelError, FrameReader, fds_of
from ...sandbox.shared.container_limits import container_memory_bytes
from ...sandbox.shared.message_format import Memfd, ProcessMessage, decode, encode
from ...sandbox.shared.stream_frames import StreamFrame
from ...sandbox.shared.stream_messages import (
    TO_SOCKET_PROCESS,
    AttachChild,
    EndStream,
    OpenStream,
    StreamOpened,
    StreamProblem,
    StreamStage,
    StreamStatistics,
    UpdateParents,
)
from ..settings.open_files import allow_most_open_files
from . import drop_notice, statistics
from .child_link import ChildLink
from .consumer import FetchedMessage
from .drop_notice import DropNotice
from .intake_check import IntakeCheck
from .message_queue import MessageQueue, QueuedMessage
from .parent_connections import ParentConnections
from .producer import DURATION_MAX_MS, Producer
from .stream_settings import largest_message

#: Most ZeroMQ sockets: each connection has two, and each of them several descriptors.
SOCKETS_MAX = 16384
#: When the process ends, what was handed to ZeroMQ has this long to be sent.
LINGER_S = 2.0
#: Largest frame of the child that is read; more if the queue may be larger.
FRAME_LEAST_BYTES = 256 * 1024 * 1024
#: Frames that count although their child is about to end; the others ask for something.
_KEPT_AT_THE_END = (
    stream_frames.SHARES,
    stream_frames.SEND,
    stream_frames.SEND_PLACE,
    stream_frames.DONE,
    stream_frames.LOST,
)
#: Interval between checks whether everything is done, at the end of the task.
LOOK_S = 0.1


class SocketProcess:
    """Serves until the parent ends it."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._frames = FrameReader()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
        self._poller = zmq.Poller()
        self._poller.register(control, zmq.POLLIN)
        self._open: OpenStream | None = None
        self._queue = MessageQueue((), 0)
        self._producer: Producer | None = None
        self._parents: ParentConnections | None = None
        self._sources_said = -1
        self._is_overdue = False  #: whether the child has taken too long for a message
        self._child: ChildLink | None = None
        self._child_is_polled_for = 0
        self._quiesces = self._drains = False  #: whether the child waits for each of these
        self._report_at = float("inf")
        self._end_by = float("inf")
        self._is_over = False
        self._drops = DropNotice(self._tell_problem, drop_notice.DROPPED)
        self._losses = DropNotice(self._tell_problem, drop_notice.LOST)
        self._intakes = IntakeCheck(self._tell_problem)
        self._next_at = float("inf")  #: the time of the next thing to do

    def run(self) -> None:
        """Serve, then close everything."""
        while not self._is_over:
            ready = dict(self._poller.poll(self._wait_ms()))
            if self._control.fileno() in ready:
                self._read_control()
            if self._child is not None and ready.get(self._child.socket.fileno(), 0) & zmq.POLLIN:
                self._read_child()
            self._serve_sockets(ready)
            self._do_what_is_due()
            self._flush_child()
        if self._producer is not None:
            self._report()
            self._producer.close(LINGER_S)
        if self._parents is not None:
            self._parents.close()
        self._context.term()

    # ---- the parent

    def _tell(self, message: ProcessMessage) -> None:
        try:
            self._control.sendall(encode(0, message))
        except OSError:
            self._is_over = True

    def _read_control(self) -> None:
        try:
            data, ancillary, _, _ = self._control.recvmsg(65536, 256, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:  # hkrunner was killed with something of ours unread
            self._is_over = True
            return
        fds = fds_of(ancillary)
        if not data and not fds:
            self._is_over = True  # hkrunner is gone
            return
        for frame in self._frames.feed(data, fds):
            message = decode(frame, TO_SOCKET_PROCESS)
            if isinstance(message, OpenStream):
                self._open_node(message)
            elif isinstance(message, AttachChild) and isinstance(message.wire, Memfd):
                self._attach(ChildLink(message.wire.fd))
            elif isinstance(message, UpdateParents):
                if self._parents is not None:
                    self._parents.update(message.changes)
            elif isinstance(message, EndStream):
                self._read_child(rest=True)
                if self._parents is not None:
                    self._parents.leave()
                self._end_by = min(self._end_by, time.monotonic() + message.most_s)

    def _open_node(self, message: OpenStream) -> None:
        self._open = message
        self._queue = MessageQueue(message.children, message.buffer_bytes)
        if message.children:
            codec.prepare(message.encoding, later=False)
            try:
                self._producer = Producer(
                    self._context,
                    self._queue,
                    message.encoding,
                    host=message.host,
                    port=message.port,
                    on_problem=self._tell_problem,
                )
            except zmq.ZMQError as error:
                self._tell(StreamOpened(f"port {message.port} for the next nodes: {error.strerror}"))
                self._is_over = True
                return
            self._poller.register(self._producer.socket, zmq.POLLIN)
            self._poller.register(self._producer.monitor, zmq.POLLIN)
            self._report_at = time.monotonic()
        memory = container_memory_bytes() or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self._parents = ParentConnections(
            self._context,
            self._poller,
            node=message.node,
            encoding=message.encoding,
            in_turn=message.in_turn,
            message_bytes=largest_message(message.buffer_bytes, memory),
            on_problem=self._tell_problem,
            on_left=self._source_left,
        )
        self._tell(StreamOpened())

    def _tell_problem(self, text: str) -> None:
        self._tell(StreamProblem(text))

    def _source_left(self, number: int) -> None:
        if self._child is not None:
            self._child.post(stream_frames.LEFT, number)

    # ---- the child

    def _attach(self, child: ChildLink) -> None:
        self._read_child(rest=True)
        self._detach()
        self._child = child
        self._quiesces = self._drains = self._is_overdue = False
        self._poller.register(child.socket, zmq.POLLIN)
        self._child_is_polled_for = zmq.POLLIN
        assert self._open is not None, "a child is attached to an open stream"
        child.open(self._open.encoding, max(self._open.buffer_bytes, FRAME_LEAST_BYTES))
        self._sources_said = -1  # to be sent before the first message

    def _detach(self) -> None:
        """Forget the child, which has ended: what it had not begun waits for the next one."""
        child, self._child = self._child, None
        if child is None:
            return
        self._poller.unregister(child.socket)
        child.close()
        self._quiesces = self._drains = False
        if self._parents is not None:
            self._parents.child_ended()

    def _read_child(self, *, rest: bool = False) -> None:
        """Read what the child has sent; `rest`: all of it, because the child is ending."""
        child = self._child
        if child is None:
            return
        try:
            for frame in child.rest() if rest else child.read():
                if not rest or frame.kind in _KEPT_AT_THE_END:
                    self._on_frame(frame)
        except EOFError:
            self._detach()
        except (struct.error, ValueError, MemoryError) as error:
            self._tell_problem(f"the algorithm's process has sent an unreadable frame: {error}")
            self._detach()

    def _on_frame(self, frame: StreamFrame) -> None:
        kind = frame.kind
        if kind in (stream_frames.SEND, stream_frames.SEND_PLACE):
            self._send(frame)
        elif kind == stream_frames.SHARES and self._child is not None:
            self._child.share()
        elif kind == stream_frames.LOST:
            self._losses.count += 1
        elif self._parents is None:
            return
        elif kind == stream_frames.DONE:
            (duration_ms,) = stream_frames.DURATION.unpack(frame.body)
            self._parents.done(frame.number, duration_ms if 0.0 <= duration_ms < DURATION_MAX_MS else 0.0)
        elif kind == stream_frames.LISTEN:
            self._quiesces = False
            self._tell_sources()
            for message in self._parents.fetch():
                self._pass_on(message)
        elif kind == stream_frames.QUIESCE:
            self._quiesces = True
            self._parents.leave()
        elif kind == stream_frames.ABANDON:
            self._quiesces = False
            self._parents.abandon()
        elif kind == stream_frames.DRAIN:
            self._drains = True
            self._tell(StreamStage("draining"))

    def _send(self, frame: StreamFrame) -> None:
        body = frame.body
        names_length, flow_length = stream_frames.SEND_HEAD.unpack_from(body)
        view = memoryview(body)
        begin = stream_frames.SEND_HEAD.size
        names, begin = bytes(view[begin : begin + names_length]), begin + names_length
        flow, begin = bytes(view[begin : begin + flow_length]), begin + flow_length
        header, begin = bytes(view[begin : begin + 8]), begin + stream_frames.PAYLOAD_HEADER
        payload: stream_frames.Buffer = view[begin:]
        if frame.kind == stream_frames.SEND_PLACE and self._child is not None:
            payload = self._child.payload_at(payload)
        if self._producer is not None:
            message = QueuedMessage(flow, header, payload, time.monotonic())
            self._drops.count += self._producer.send(message, names.decode().split("\0"))

    def _tell_sources(self) -> None:
        """Send the child the number of parent connections, if that has changed."""
        if self._child is None or self._parents is None or len(self._parents) == self._sources_said:
            return
        self._sources_said = len(self._parents)
        self._child.post(stream_frames.SOURCES, self._sources_said)

    def _pass_on(self, message: FetchedMessage) -> None:
        assert self._child is not None and self._parents is not None, "only a child asks for messages"
        parent = message.consumer.parent.encode()
        flow, header, payload = (one.buffer for one in message.frames)
        head = stream_frames.MESSAGE_HEAD.pack(message.consumer.number, len(parent), len(flow))
        self._child.post_payload(message.number, (head, parent, flow, header), payload)
        self._parents.passed(message)

    def _flush_child(self) -> None:
        child = self._child
        if child is None:
            return
        child.flush()
        wanted = zmq.POLLIN | (zmq.POLLOUT if child.is_full else 0)
        if wanted != self._child_is_polled_for:
            self._child_is_polled_for = wanted
            self._poller.modify(child.socket, wanted)

    # ---- the sockets

    def _serve_sockets(self, ready: dict[Any, int]) -> None:
        producer = self._producer
        if producer is not None:
            if producer.socket in ready:
                producer.receive()
            if producer.monitor in ready:
                producer.look_at_connections()
        if self._parents is not None:
            found = self._parents.serve(ready)
            if self._child is not None and (self._parents.is_fetching or self._quiesces):
                self._tell_sources()
                for message in found:
                    self._pass_on(message)

    # ---- time

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        self._next_at = float("inf")
        parents = self._parents
        if parents is not None:
            self._note(parents.ask(now))
            self._tell_sources()
            if self._quiesces and parents.have_left:
                self._quiesces = False
                self._tell_stage("quiesced", stream_frames.QUIESCED)
        if self._producer is not None:
            self._producer.look()
            self._note(self._producer.next_look)
        if self._drains and self._is_drained:
            self._drains = False
            self._report()
            self._tell_stage("drained", stream_frames.DRAINED)
        elif self._drains or self._end_by != float("inf"):
            self._note(now + LOOK_S)
        if now >= self._report_at:
            assert self._open is not None, "only an open stream reports"
            self._report()
            self._report_at = now + self._open.statistics_s
        self._note(self._report_at)
        self._note(self._end_by)
        if now >= self._end_by or (self._end_by != float("inf") and self._is_drained):
            self._end()
        self._check_message_time(now)
        self._note(self._intakes.check_if_due(now, self._producer, parents, self._queue.bytes))
        self._note(self._drops.say_if_due(now))
        self._note(self._losses.say_if_due(now))

    def _check_message_time(self, now: float) -> None:
        """Report once for each child that a message takes too long."""
        opened, parents = self._open, self._parents
        if opened is None or parents is None or not opened.message_s or self._is_overdue:
            return
        overdue = parents.overdue_at(opened.message_s)
        if now < overdue:
            self._note(overdue)
        else:
            self._is_overdue = True
            self._tell(StreamStage("overdue"))

    def _note(self, at: float | None) -> None:
        if at is not None and at < self._next_at:
            self._next_at = at

    def _wait_ms(self) -> int | None:
        if self._next_at == float("inf"):
            return None
        return max(0, math.ceil((self._next_at - time.monotonic()) * 1000))

    def _tell_stage(self, stage: str, kind: int) -> None:
        if self._child is not None:
            self._child.post(kind)
        self._tell(StreamStage(stage))

    @property
    def _is_drained(self) -> bool:
        return self._producer is None or self._producer.is_drained

    def _report(self) -> None:
        if self._producer is not None:
            self._tell(StreamStatistics(statistics.report(self._queue, self._producer.samples)))

    def _end(self) -> None:
        self._drops.say()
        self._losses.say()
        left = self._queue.size
        if left:
            self._tell_problem(f"{left} messages were not taken by the next nodes, and are lost")
        self._is_over = True


def main() -> None:
    """Serve; argv: the descriptor of the socket to the parent."""
    allow_most_open_files()
    control = socket.socket(fileno=int(sys.argv[1]))
    process = SocketProcess(control)
    try:
        process.run()
    except ChannelError as error:
        sys.exit(f"the socket process of a stream ends: {error}")
    os._exit(0)  # everything is closed; no library's thread must delay the end
