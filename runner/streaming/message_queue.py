"""The messages that wait for the next nodes: kept once, however many nodes they go to, up to a limit.

As in HKube's wrapper, a message leaves when each of its next nodes has taken it, and while the sum of the
payloads exceeds the limit before one is added, the oldest is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class QueuedMessage:
    """A message, and how many nodes are still to take it."""

    __slots__ = ("appended_at", "flow", "header", "is_dropped", "payload", "waits")

    def __init__(self, flow: bytes, header: bytes, payload: bytes | memoryview, appended_at: float) -> None:
        """`flow`: the rest of its flow, encoded. `appended_at`: on the monotonic clock."""
        self.flow = flow
        self.header = header
        self.payload = payload
        self.appended_at = appended_at
        self.waits = 0
        self.is_dropped = False


class NodeQueue:
    """What waits for one next node, and how much went there."""

    def __init__(self) -> None:
        self._messages: deque[QueuedMessage] = deque()
        self.appended = 0
        self.sent = 0  #: handed out, without those that came back
        self.dropped = 0

    @property
    def size(self) -> int:
        """How many messages wait."""
        return self.appended - self.sent - self.dropped


class MessageQueue:
    """The messages for all next nodes."""

    def __init__(self, nodes: Sequence[str], limit_bytes: int) -> None:
        self.nodes = {node: NodeQueue() for node in nodes}
        self._limit = limit_bytes
        self._in_order: deque[QueuedMessage] = deque()
        self.bytes = 0  #: of the payloads that wait

    def append(self, message: QueuedMessage, nodes: Sequence[str]) -> int:
        """Add a message for these of the next nodes; return how many were dropped for it."""
        dropped = 0
        while self.bytes > self._limit and self._drop_oldest():
            dropped += 1
        takers = [self.nodes[node] for node in nodes if node in self.nodes]
        if takers:
            message.waits = len(takers)
            self._in_order.append(message)
            self.bytes += len(message.payload)
            for taker in takers:
                taker.appended += 1
                taker._messages.append(message)
        return dropped

    def take(self, node: str) -> QueuedMessage | None:
        """Return the oldest message that waits for this node; it counts as sent."""
        queue = self.nodes[node]
        while queue._messages:
            message = queue._messages.popleft()
            if not message.is_dropped:
                queue.sent += 1
                message.waits -= 1
                if not message.waits:
                    self.bytes -= len(message.payload)
                    self._forget_taken()
                return message
        return None

    def give_back(self, node: str, message: QueuedMessage) -> None:
        """Have a message that was taken for this node be the next one again."""
        queue = self.nodes[node]
        queue.sent -= 1
        if message.is_dropped:
            queue.dropped += 1
            return
        if not message.waits:
            self.bytes += len(message.payload)
            self._in_order.appendleft(message)
        message.waits += 1
        queue._messages.appendleft(message)

    @property
    def size(self) -> int:
        """How many messages wait, each counted for each node that it waits for."""
        return sum(queue.size for queue in self.nodes.values())

    def _drop_oldest(self) -> bool:
        self._forget_taken()
        if not self._in_order:
            return False
        message = self._in_order.popleft()
        message.is_dropped = True
        self.bytes -= len(message.payload)
        for queue in self.nodes.values():
            # Each node takes messages in order: the oldest of all is its first, or it has taken it.
            if queue._messages and queue._messages[0] is message:
                queue._messages.popleft()
                queue.dropped += 1
        return True

    def _forget_taken(self) -> None:
        order = self._in_order
        # One that was given back may be in here twice.
        while order and (not order[0].waits or order[0].is_dropped):
            order.popleft()
