"""Hands messages out to the consumers of the next nodes, over a ROUTER socket."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from ...sandbox.codec import codec
from ..io.connection_intake import ConnectionIntake, event_of
from . import signals
from .message_queue import MessageQueue, QueuedMessage
from .statistics import NodeSamples

#: Times after the loss of a connection at which to look for consumers that are gone: the socket may notice
#: the loss later than its monitor.
LOOK_AGAIN_S = (0.0, 0.05, 0.5, 2.0)
#: Most consumers of other programs to remember: these reconnect with a new identity at times.
OTHERS_MAX = 1000
#: Most messages, and bytes, that one of hkrunner's consumers gets at once.
TOGETHER_MAX, TOGETHER_BYTES = 32, 64 * 1024
#: Most READYs, and messages that are not DONE, of one honest consumer.
OUTSTANDING_MAX = 1024
#: A larger frame of a consumer ends its connection, before memory is allocated for it; so does a message of
#: more than three such frames.
FRAME_MAX = 64 * 1024
#: A longer duration is not credible.
DURATION_MAX_MS = 1e12
#: Least time of a message that is reported: HKube's auto-scaler rounds to 0.01 ms, and 0 ends all replicas.
ROUND_TRIP_LEAST_MS = 0.01
#: A message is dropped for a node when so many consumers of it were lost before it was done: it may be what
#: ends them, and those behind it would wait for ever.
RETURNS_MAX = 5
#: One of this size counts although it was not the first that its consumer had: it may be larger than that
#: can take.
LARGE_BYTES = 64 * 1024 * 1024
#: At the end of the task, wait this long for a DONE of another program's consumer, which may be gone.
DONE_S = 1.0


class ConnectedConsumer:
    """One consumer of a next node: a socket of one replica."""

    def __init__(self, identity: bytes, node: str) -> None:
        self.identity = identity
        self.node = node
        self.is_ours = identity.startswith(signals.OURS)
        self.ready = 0  #: number of READYs that were not answered
        self.taken: deque[tuple[QueuedMessage, float]] = deque()  #: not DONE, and when it was sent
        self.done_at = 0.0
        self.is_leaving = False  #: whether it has said BYE: no message is what ends it


class Producer:
    """The producing side of a node."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        queue: MessageQueue,
        encoding: str,
        *,
        host: str,
        port: int,
        on_problem: Callable[[str], None],
    ) -> None:
        """Bind the port. Raises zmq.ZMQError."""
        self._queue = queue
        self._on_problem = on_problem
        self._encoding = encoding
        self._names = {codec.encode_value(encoding, node): node for node in queue.nodes}
        self.samples = {node: NodeSamples() for node in queue.nodes}
        self._consumers: dict[bytes, ConnectedConsumer] = {}
        #: The consumers of each next node that are ready, in the order of their turns.
        self._ready: dict[str, deque[ConnectedConsumer]] = {node: deque() for node in queue.nodes}
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # an error for a consumer that is gone
        self.socket.setsockopt(zmq.SNDHWM, OUTSTANDING_MAX)
        self.socket.setsockopt(zmq.MAXMSGSIZE, FRAME_MAX)
        keep_alive(self.socket)
        self.socket.setsockopt(zmq.IPV6, int(host.startswith("[")))
        self.intake = ConnectionIntake(3 * FRAME_MAX)
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_ACCEPTED)
        try:
            self.socket.bind(f"tcp://{host}:{port}")
        except zmq.ZMQError:
            self.close(0)
            raise
        self._look_at: list[float] = []

    # ---- messages of the child

    def send(self, message: QueuedMessage, nodes: Sequence[str]) -> int:
        """Hand the message out, or queue it; return how many others were dropped for it."""
        dropped = self._queue.append(message, nodes)
        for node in nodes:
            if self._ready.get(node):
                self._hand_out(node)
        return dropped

    def _hand_out(self, node: str) -> None:
        ready = self._ready[node]
        while ready and self._queue.nodes[node].size:
            consumer = ready.popleft()
            messages = self._next_messages(node, min(consumer.ready, TOGETHER_MAX))
            consumer.ready -= len(messages)
            if consumer.ready:
                ready.append(consumer)  # the others have their turn first
            self._send_messages(consumer, messages)

    def _next_messages(self, node: str, most: int) -> list[QueuedMessage]:
        """Take messages for this node: several small ones, or a large one."""
        found: list[QueuedMessage] = []
        size = 0
        while len(found) < most and size < TOGETHER_BYTES:
            message = self._queue.take(node)
            if message is None:
                break
            found.append(message)
            size += len(message.payload)
        return found

    def _send_messages(self, consumer: ConnectedConsumer, messages: Sequence[QueuedMessage]) -> None:
        frames: list[Any] = [consumer.identity, signals.MESSAGE]
        for message in messages:
            frames += (message.flow, message.header, message.payload)
        if not messages or not self._post(consumer, frames):
            for message in messages:
                self._queue.give_back(consumer.node, message)
            return
        now = time.monotonic()
        queued, taken = self.samples[consumer.node].queued, consumer.taken
        for message in messages:
            queued.append(now - message.appended_at)
            taken.append((message, now))

    def _post(self, consumer: ConnectedConsumer, frames: list[Any]) -> bool:
        """Send frames to the consumer; False: it is gone, or reads nothing, and is forgotten."""
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK, copy=len(frames[-1]) < 65536)
        except zmq.ZMQError:
            self._gone(consumer)
            return False
        return True

    # ---- messages of consumers

    def receive(self, most: int = 256) -> None:
        """Take what consumers have sent."""
        for _ in range(most):
            try:
                identity = self.socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self.intake.took(identity.get(zmq.SRCFD))
            frames = self.socket.recv_multipart()
            if len(frames) == 3:
                self._on_frames(identity.bytes, *frames)

    def _on_frames(self, identity: bytes, signal: bytes, name: bytes, data: bytes) -> None:
        consumer = self._consumers.get(identity)
        if consumer is None:
            node = self._names.get(name)
            if node is None:
                return  # not a next node; HKube's wrappers ignore it as well
            consumer = self._consumers[identity] = ConnectedConsumer(identity, node)
            self._forget_others()
            if consumer.is_ours and not self._post(consumer, [identity, signals.HELLO]):
                return
        if signal == signals.READY:
            self._on_ready(consumer)
        elif signal == signals.DONE:
            self._on_done(consumer, [self._duration_of(data)])
        elif signal == signals.DONES and _is_whole(data):
            durations = signals.DURATION.iter_unpack(data[signals.READYS.size :])
            self._on_done(consumer, [one for (one,) in durations])
            self._on_ready(consumer, signals.READYS.unpack_from(data)[0])
        elif signal == signals.BYE:
            consumer.is_leaving = True
            self._not_ready(consumer)
            if not self._post(consumer, [identity, signals.GOODBYE]):
                self._hand_out(consumer.node)

    def _on_ready(self, consumer: ConnectedConsumer, number: int = 1) -> None:
        ready = self._ready[consumer.node]
        if not consumer.is_ours:
            # It asks for its next message: it will not report the last one as done any more.
            consumer.taken.clear()
            messages = self._next_messages(consumer.node, 1)
            if messages:
                self._send_messages(consumer, messages)
            else:
                self._post(consumer, [consumer.identity, signals.NO_MESSAGE])
            return
        number = min(number, OUTSTANDING_MAX - consumer.ready - len(consumer.taken))
        if number <= 0:
            return
        if not consumer.ready:
            ready.append(consumer)
        consumer.ready += number
        self._hand_out(consumer.node)

    def _duration_of(self, data: bytes) -> float:
        try:
            return float(codec.decode(self._encoding, data)["duration"])
        except (ValueError, TypeError, LookupError, OverflowError):
            return 0.0

    def _on_done(self, consumer: ConnectedConsumer, durations_ms: Sequence[float]) -> None:
        """Count the oldest messages that the consumer has as done; they share the time until now."""
        count = min(len(durations_ms), len(consumer.taken))
        if not count:
            return
        now = time.monotonic()
        # A message that was sent ahead has waited for the one before it.
        began = max(consumer.taken[0][1], consumer.done_at)
        consumer.done_at = now
        each_ms = max((now - began) * 1000 / count, ROUND_TRIP_LEAST_MS)
        responded = self.samples[consumer.node].responded
        for duration_ms in durations_ms[:count]:
            consumer.taken.popleft()
            # Whatever a consumer sends, the worker gets a number.
            responded(duration_ms if 0.0 <= duration_ms < DURATION_MAX_MS else 0.0, each_ms)

    # ---- consumers that are gone

    def _not_ready(self, consumer: ConnectedConsumer) -> None:
        if consumer.ready:
            consumer.ready = 0
            self._ready[consumer.node].remove(consumer)

    def _gone(self, consumer: ConnectedConsumer) -> None:
        """Forget a consumer; messages that one of hkrunner's had not done wait for another one.

        It hands nothing out: of hundreds that are gone at once, each would be found within the call for
        the one before it.
        """
        if self._consumers.pop(consumer.identity, None) is None:
            return
        if consumer in self._ready[consumer.node]:
            self._ready[consumer.node].remove(consumer)
        consumer.ready = 0
        if consumer.is_ours and consumer.taken:
            self._give_back(consumer, [message for message, _ in consumer.taken])

    def _give_back(self, consumer: ConnectedConsumer, taken: Sequence[QueuedMessage]) -> None:
        """Have the messages of a consumer that is gone wait again, but for one that may end each of them."""
        node = consumer.node
        largest = max(taken, key=lambda message: message.size)
        blamed = {taken[0], largest} if largest.size >= LARGE_BYTES else {taken[0]}
        if consumer.is_leaving:
            blamed.clear()
        for message in blamed:
            message.returns += (node,)  # the other nodes have the same object
        for message in taken:
            if message not in blamed or message.returns.count(node) < RETURNS_MAX:
                self._queue.give_back(node, message)
                continue
            self._queue.drop_taken(node)
            self._on_problem(
                f"a message of {len(message.payload):,} bytes for {node} is dropped: {RETURNS_MAX} times the"
                " connection was lost with it; does it end what handles it, or is it larger than the memory?"
            )

    def look_at_connections(self) -> None:
        """Read the events of the monitor. It does not say which consumer is gone: look now and later."""
        is_lost = False
        while self.monitor.poll(0):
            event, fd = event_of(self.monitor.recv_multipart()[0])
            if event == zmq.EVENT_ACCEPTED:
                self.intake.opened(fd)
            else:
                is_lost = True
        if not is_lost:
            return
        now = time.monotonic()
        self._look_at = sorted({*self._look_at, *(now + after_s for after_s in LOOK_AGAIN_S)})[-8:]

    @property
    def next_look(self) -> float | None:
        """The time of the next look for consumers that are gone."""
        return self._look_at[0] if self._look_at else None

    def look(self) -> None:
        """Look for consumers of hkrunner's that are gone, if it is time."""
        now = time.monotonic()
        if not self._look_at or self._look_at[0] > now:
            return
        self._look_at = [at for at in self._look_at if at > now]
        for consumer in list(self._consumers.values()):
            if consumer.is_ours:
                self._post(consumer, [consumer.identity, signals.HELLO])
        for node in self._ready:
            self._hand_out(node)

    def _forget_others(self) -> None:
        if len(self._consumers) > OTHERS_MAX:
            for identity in [one.identity for one in self._consumers.values() if not one.is_ours][:100]:
                del self._consumers[identity]

    # ---- the end

    @property
    def is_drained(self) -> bool:
        """Whether each message was taken, and is done as far as is known."""
        if self._queue.size:
            return False
        now = time.monotonic()
        return not any(
            consumer.is_ours or now - consumer.taken[-1][1] < DONE_S
            for consumer in self._consumers.values()
            if consumer.taken
        )

    def close(self, linger_s: float) -> None:
        """Close the socket; what was handed out has this long to be sent."""
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(int(linger_s * 1000))


def keep_alive(socket: zmq.Socket[bytes]) -> None:
    """Have the kernel notice within 25 s that the other machine has vanished."""
    for option, value in (
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, 10),
        (zmq.TCP_KEEPALIVE_INTVL, 5),
        (zmq.TCP_KEEPALIVE_CNT, 3),
    ):
        socket.setsockopt(option, value)


def _is_whole(data: bytes) -> bool:
    """Whether a peer's DONES has its head, and after it whole durations."""
    rest = len(data) - signals.READYS.size
    return rest >= 0 and rest % signals.DURATION.size == 0
