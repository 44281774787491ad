"""Fetches messages from one producer of a parent node, over a DEALER socket."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import zmq

from ...sandbox.codec import codec
from ..io.connection_intake import ConnectionIntake, event_of
from . import signals
from .producer import keep_alive

#: A READY may remain unanswered for this long by a producer that is not hkrunner's; then connect again.
ANSWER_S = 5.0
#: Pause between NO_MESSAGE and the next READY.
PAUSE_S = 0.005
#: When a connection is closed, what was sent on it has this long to leave.
LINGER_S = 2.0
#: Length of the header that HKube puts before a payload.
HEADER = 8
#: Most messages to fetch ahead: the work of AHEAD_S, AHEAD_MAX messages, AHEAD_BYTES.
AHEAD_S, AHEAD_MAX, AHEAD_BYTES = 0.02, 64, 16 * 1024 * 1024
#: With this much in hand, read no more: a producer may send messages without having been asked.
IN_HAND_MAX, IN_HAND_BYTES = 4 * AHEAD_MAX, 8 * AHEAD_BYTES
#: Messages that ZeroMQ holds beside these: those that were asked for may come one by one.
WAITING_MAX = AHEAD_MAX
#: A larger frame ends its connection, before memory is allocated for it.
FRAME_MAX = 2**32 - 1
#: So do a larger message than may come, and frames without end, once so much more has come: the heads of its
#: frames, and messages that follow one another.
INTAKE_MORE = 2 * AHEAD_BYTES
#: Pauses before new connections, as long as each one is lost soon.
PAUSES_S = (0.0, 0.1, 0.3, 1.0)
#: Weight of the newest measurement in an average.
WEIGHT = 0.2


class FetchedMessage(NamedTuple):
    """A message that goes to the child, or that the child has and has not done."""

    number: int
    consumer: Consumer
    socket_number: int  #: number of the consumer's socket that received it
    frames: list[zmq.Frame]  #: rest of the flow, header, payload


class Consumer:
    """One connection to a parent node."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        poller: zmq.Poller,
        *,
        number: int,
        address: str,
        parent: str,
        node: str,
        encoding: str,
        message_bytes: int,
    ) -> None:
        """Connect. `parent`: the name of the node at the other end; `node`: our own.

        `message_bytes`: most that a message may have. Raises zmq.ZMQError.
        """
        self._context = context
        self._poller = poller
        self.number = number
        self.address = address
        self.parent = parent
        self._encoding = encoding
        self._intake_bytes = message_bytes + INTAKE_MORE
        self._name = codec.encode_value(encoding, node)
        self.in_hand: deque[FetchedMessage] = deque()  #: messages that the child has not done
        self._average_s = AHEAD_S  #: time that the child takes for a message
        self._average_bytes = 0.0
        self.since = 0.0  #: the time at which the first message in hand became the first
        self._socket_number = 0
        self.is_leaving = False  #: whether nothing more is fetched
        self.is_deleted = False  #: whether the producer is gone, or is about to go
        self.has_sent_garbage = False  #: whether a message came that is not in HKube's format
        self._losses = 0  #: number of connections in a row that were lost soon
        self._is_polled = False
        self._connect()

    def _connect(self) -> None:
        self._socket_number += 1
        self._is_ours = False
        self._asked = 0  #: number of READYs that were not answered
        self._asked_at = 0.0
        self._pause_until = 0.0
        self._bye_at: float | None = None
        self._goodbye = self._gives_up = False
        self._done: list[float] = []  #: durations to be sent to the producer
        self.is_connected = False
        self._connected_at = 0.0
        self._connect_at: float | None = time.monotonic() + PAUSES_S[min(self._losses, len(PAUSES_S) - 1)]
        socket = self.socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, signals.OURS + uuid.uuid4().hex.encode())
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.setsockopt(zmq.RCVHWM, WAITING_MAX)
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_MAX)
        socket.setsockopt(zmq.IPV6, int("[" in self.address))
        keep_alive(socket)
        self.intake = ConnectionIntake(self._intake_bytes)
        self.monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECTED)
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self.monitor, zmq.POLLIN)
        self._is_polled = True
        if not self._losses:
            self._connect_if_due(0.0, must=True)

    def _connect_if_due(self, now: float, *, must: bool = False) -> float | None:
        """Connect if the pause is over. Return when to call again; None: ZeroMQ does the rest."""
        if self._connect_at is not None:
            if not must and now < self._connect_at:
                return self._connect_at
            self._connect_at = None
            try:
                self.socket.connect(self.address)
            except zmq.ZMQError:
                self.close()
                raise
        return None

    def close(self, linger_s: float = 0.0) -> None:
        """Disconnect; what was sent has this long to leave."""
        if self._is_polled:
            self._poller.unregister(self.socket)
        self._poller.unregister(self.monitor)
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(int(linger_s * 1000))

    # ---- asking

    def ask(self, now: float) -> float | None:
        """Ask for messages, as many as the child can use soon; return when to call again, None: not needed.

        If no answer comes, connect again.
        """
        connect_at = self._connect_if_due(now)
        if connect_at is not None:
            return connect_at
        if self.is_leaving:
            return self._ask_to_leave(now)
        if not self._is_ours:
            if self._asked:
                overdue = self._asked_at + ANSWER_S
                if self.is_connected and now >= overdue:
                    self._reconnect()
                    return now
                return overdue if self.is_connected else None
            if self.in_hand:
                return None
            if now < self._pause_until:
                return self._pause_until
        number = max(0, self._window() - self._asked - len(self.in_hand))
        if self._is_ours:
            if number or self._done:
                data = signals.READYS.pack(number) + b"".join(map(signals.DURATION.pack, self._done))
                self._done.clear()
                self._say(signals.DONES, data)
            self._asked += number
            return None
        if number:
            self._say(signals.READY, signals.EMPTY)
            self._asked, self._asked_at = 1, now
        return now + ANSWER_S

    def _window(self) -> int:
        if not self._is_ours:
            return 1
        most = min(
            AHEAD_MAX, AHEAD_S / max(self._average_s, 1e-6), AHEAD_BYTES / max(self._average_bytes, 1.0)
        )
        return max(1, int(most))

    def say_done(self) -> None:
        """Report to the producer what is done, without asking for more."""
        if self._done:
            data = signals.READYS.pack(0) + b"".join(map(signals.DURATION.pack, self._done))
            self._done.clear()
            self._say(signals.DONES, data)

    def say_bye(self) -> None:
        """Tell one of hkrunner's producers that the connection ends on purpose, and no message ends it."""
        if self._is_ours:
            self._say(signals.BYE, signals.EMPTY)

    def _ask_to_leave(self, now: float) -> float | None:
        self.say_done()
        if not self._may_come:
            return None
        if self._is_ours and self._bye_at is None:
            self._bye_at = now
            self.say_bye()
        overdue = (self._asked_at if self._bye_at is None else self._bye_at) + ANSWER_S
        if now >= overdue:
            self._gives_up = True
            return now
        return overdue

    @property
    def _may_come(self) -> bool:
        if not self.is_connected or self._gives_up:
            return False
        return not self._goodbye if self._is_ours else self._asked > 0

    @property
    def has_left(self) -> bool:
        """Whether nothing more comes, and all that came is done."""
        return self.is_leaving and not self._may_come and not self.in_hand

    def _say(self, signal: bytes, data: bytes) -> None:
        self.socket.send_multipart([signal, self._name, data])

    # ---- receiving

    def _poll(self, in_hand: int) -> None:
        """Poll the socket, unless so much is in hand that further messages are left in it."""
        wanted = not in_hand or (in_hand < IN_HAND_MAX and in_hand * self._average_bytes < IN_HAND_BYTES)
        if wanted != self._is_polled and not self.socket.closed:
            self._is_polled = wanted
            self._poller.modify(self.socket, zmq.POLLIN if wanted else 0)  # 0 unregisters it

    def receive(self) -> list[list[zmq.Frame]]:
        """Return the messages that have come."""
        found: list[list[zmq.Frame]] = []
        most, size = min(AHEAD_MAX, IN_HAND_MAX - len(self.in_hand)), 0
        while len(found) < most and size < AHEAD_BYTES:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self.intake.took_from_all()
            signal = frames[0].bytes
            if signal == signals.MESSAGE:
                if not _is_readable(frames):
                    self.has_sent_garbage = True
                    continue
                for at in range(1, len(frames), 3):
                    found.append(frames[at : at + 3])
                    length = len(frames[at + 2].buffer)
                    size += length
                    self._average_bytes += WEIGHT * (length - self._average_bytes)
                    self._asked = max(0, self._asked - 1)
            elif signal == signals.HELLO:
                self._is_ours = True
            elif signal == signals.GOODBYE:
                self._goodbye = True
            elif signal == signals.NO_MESSAGE:
                self._asked = max(0, self._asked - 1)
                self._pause_until = time.monotonic() + PAUSE_S
        self._poll(len(self.in_hand) + len(found))
        return found

    def taken(self, number: int, frames: list[zmq.Frame]) -> FetchedMessage:
        """Return these frames as a message that is in hand, and goes to the child."""
        message = FetchedMessage(number, self, self._socket_number, frames)
        if not self.in_hand:
            self.since = time.monotonic()
        self.in_hand.append(message)
        return message

    def done(self, message: FetchedMessage, duration_ms: float) -> None:
        """Note that the child has done a message, and how long it took."""
        self.in_hand.remove(message)
        self._poll(len(self.in_hand))
        self.since = time.monotonic()
        self._average_s += WEIGHT * (max(0.0, duration_ms) / 1000 - self._average_s)
        if message.socket_number == self._socket_number:
            self._report_done(duration_ms)

    def _report_done(self, duration_ms: float) -> None:
        if self._is_ours:
            self._done.append(duration_ms)  # ask() sends it
        else:
            self._say(signals.DONE, codec.encode_value(self._encoding, {"duration": duration_ms}))

    def look_at_connection(self) -> None:
        """Read the events of the monitor. If the connection was lost, connect and ask for messages again."""
        while self.monitor.poll(0):
            event, fd = event_of(self.monitor.recv_multipart()[0])
            if event == zmq.EVENT_CONNECTED:
                self.intake.opened(fd)
                self.is_connected = True
                self._connected_at = time.monotonic()
                self._asked_at = self._connected_at  # a READY of before is sent only now
            elif event == zmq.EVENT_DISCONNECTED:
                was_long = time.monotonic() - self._connected_at >= ANSWER_S
                self._losses = 0 if was_long else self._losses + 1
                self._reconnect()
                return

    def leave(self) -> None:
        """Fetch nothing more from now on."""
        self.is_leaving = True

    def stay(self) -> None:
        """Fetch again, unless the producer is gone."""
        if self.is_leaving and not self.is_deleted:
            self.is_leaving = False
            if self._bye_at is not None:
                self._reconnect()  # at BYE, the producer has forgotten the READYs

    @property
    def gets_back(self) -> bool:
        """Whether the producer passes messages that are not done to another consumer when this one ends."""
        return self._is_ours and self.is_connected

    def abandon(self, begun: Sequence[FetchedMessage]) -> None:
        """Forget the messages in hand that the child has not begun; fetch nothing more."""
        self.leave()
        for message in begun:
            if message.socket_number == self._socket_number:
                self._report_done(0.0)  # the producer must not send it to another consumer
        self.say_done()
        self.say_bye()
        self.in_hand = deque(begun)
        self._reconnect()

    def _reconnect(self) -> None:
        self.close(LINGER_S)
        self._connect()


def _is_readable(frames: list[zmq.Frame]) -> bool:
    """Whether these are the frames of one message, or of several: three each, after the signal."""
    return len(frames) >= 4 and len(frames) % 3 == 1 and all(len(one) == HEADER for one in frames[2::3])
