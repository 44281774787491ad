"""The messages that wait for the next nodes: kept once, however many nodes they go to, up to a limit.

As in HKube's wrapper, a message leaves when each of its next nodes has taken it, and while the messages that
wait are larger than the limit before one is added, the oldest is dropped.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

#: Memory of a message beside its payload and the rest of its flow (measured with a few bytes of each).
OVERHEAD_BYTES = 500


class QueuedMessage:
    """A message, and how many nodes are still to take it."""

    __slots__ = ("appended_at", "flow", "header", "number", "payload", "returns", "waits")

    def __init__(
        self, flow: bytes, header: bytes, payload: bytes | bytearray | memoryview, appended_at: float
    ) -> None:
        """`flow`: the rest of its flow, encoded. `appended_at`: on the monotonic clock."""
        self.flow = flow
        self.header = header
        self.payload = payload
        self.appended_at = appended_at
        self.number = 0  #: in the order in which messages were appended
        self.waits = 0
        self.returns: tuple[str, ...] = ()  #: the node of each loss of a consumer that it is blamed for

    def __lt__(self, other: QueuedMessage) -> bool:
        """Whether it was appended before the other one."""
        return self.number < other.number

    @property
    def size(self) -> int:
        """The memory that it takes."""
        return len(self.payload) + len(self.flow) + OVERHEAD_BYTES


class NodeQueue:
    """The messages that wait for one next node, and how many were sent there."""

    def __init__(self) -> None:
        self._new: deque[QueuedMessage] = deque()  #: messages that were never taken
        #: A heap of the messages that were taken and came back: all are older than the new ones.
        self._returned: list[QueuedMessage] = []
        self.sent = 0  #: handed out, without those that came back
        self.dropped = 0

    @property
    def size(self) -> int:
        """How many messages wait."""
        return len(self._new) + len(self._returned)

    @property
    def oldest(self) -> QueuedMessage | None:
        """The message that pop() would return."""
        if self._returned:
            return self._returned[0]
        return self._new[0] if self._new else None

    def append(self, message: QueuedMessage) -> None:
        """Have a new message wait."""
        self._new.append(message)

    def put_back(self, message: QueuedMessage) -> None:
        """Have a message that was popped wait again, at its old place."""
        heapq.heappush(self._returned, message)

    def pop(self) -> QueuedMessage:
        """Remove the oldest message that waits. There is one."""
        return heapq.heappop(self._returned) if self._returned else self._new.popleft()


class MessageQueue:
    """The messages for all next nodes."""

    def __init__(self, nodes: Sequence[str], limit_bytes: int) -> None:
        self.nodes = {node: NodeQueue() for node in nodes}
        self._limit = limit_bytes
        self._count = 0
        self.bytes = 0  #: of the messages that wait

    def append(self, message: QueuedMessage, nodes: Sequence[str]) -> int:
        """Add a message for these of the next nodes; return how many were dropped for it."""
        dropped = 0
        while self.bytes > self._limit and self._drop_oldest():
            dropped += 1
        takers = [self.nodes[node] for node in dict.fromkeys(nodes) if node in self.nodes]
        if takers:
            self._count += 1
            message.number = self._count
            message.waits = len(takers)
            self.bytes += message.size
            for taker in takers:
                taker.append(message)
        return dropped

    def take(self, node: str) -> QueuedMessage | None:
        """Return the oldest message that waits for this node; it counts as sent."""
        queue = self.nodes[node]
        if not queue.size:
            return None
        queue.sent += 1
        message = queue.pop()
        self._waits_no_more(message)
        return message

    def give_back(self, node: str, message: QueuedMessage) -> None:
        """Have a message that was taken for this node wait for it again, before all that are newer."""
        queue = self.nodes[node]
        queue.sent -= 1
        queue.put_back(message)
        if not message.waits:
            self.bytes += message.size
        message.waits += 1

    def drop_taken(self, node: str) -> None:
        """Count a message that was taken for this node as dropped instead of sent."""
        queue = self.nodes[node]
        queue.sent -= 1
        queue.dropped += 1

    @property
    def size(self) -> int:
        """How many messages wait, each counted for each node that it waits for."""
        return sum(queue.size for queue in self.nodes.values())

    def _waits_no_more(self, message: QueuedMessage) -> None:
        """One node less waits for the message."""
        message.waits -= 1
        if not message.waits:
            self.bytes -= message.size

    def _drop_oldest(self) -> bool:
        """Drop the oldest message; False: none waits."""
        message = min((one.oldest for one in self.nodes.values() if one.oldest is not None), default=None)
        if message is None:
            return False
        for queue in self.nodes.values():
            # The oldest of all is the oldest of each node that it waits for.
            if queue.oldest is message:
                queue.pop()
                queue.dropped += 1
                self._waits_no_more(message)
        return True
