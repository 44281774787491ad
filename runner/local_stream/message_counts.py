"""How many messages went from node to node, from the statistics that each replica sends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class MessageCount:
    """Messages from one node to another: handed out, handled there, dropped, and in the queue."""

    sent: int = 0
    handled: int = 0
    dropped: int = 0
    queued: int = 0

    @property
    def accepted(self) -> int:
        """How many messages came from the algorithm: that number never decreases in one process."""
        return self.sent + self.dropped + self.queued

    def add(self, other: MessageCount) -> None:
        """Add another count to this one."""
        self.sent += other.sent
        self.handled += other.handled
        self.dropped += other.dropped
        self.queued += other.queued


class MessageCounts:
    """The counts of a whole pipeline.

    A socket process that takes the place of another one counts from 0. What the one before it had counted is
    kept.
    """

    def __init__(self) -> None:
        #: By source, replica of the source, and target.
        self._last: dict[tuple[str, str, str], MessageCount] = {}
        self._before: dict[tuple[str, str, str], MessageCount] = {}

    def report(self, source: str, replica: str, items: Sequence[Any]) -> None:
        """Take what a replica of the source has sent as `streamingStatistics`."""
        for item in items:
            key = (source, replica, str(item["nodeName"]))
            now = MessageCount(item["sent"], item["responses"], item["dropped"], item["queueSize"])
            last = self._last.get(key)
            # Messages that were sent to a replica which is killed return to the queue.
            if last is not None and (now.accepted < last.accepted or now.handled < last.handled):
                self._before.setdefault(key, MessageCount()).add(last)
                self._before[key].queued = 0  # that queue is gone
            self._last[key] = now

    def ended_in_order(self, source: str, replica: str) -> None:
        """All that the replica had is taken, and it reports no more."""
        for (from_node, name, _), count in self._last.items():
            if (from_node, name) == (source, replica):
                count.sent, count.queued = count.sent + count.queued, 0
                count.handled = max(count.handled, count.sent)

    def between(self, source: str, target: str) -> MessageCount:
        """Return the count of the messages from one node to another."""
        return _sum(
            count
            for counts in (self._before, self._last)
            for (from_node, _, to_node), count in counts.items()
            if (from_node, to_node) == (source, target)
        )

    def into(self, target: str, sources: Iterable[str]) -> MessageCount:
        """Return the count of all messages to a node."""
        return _sum(self.between(source, target) for source in sources)

    def out_of(self, source: str, targets: Iterable[str]) -> MessageCount:
        """Return the count of all messages of a node; one to two nodes counts twice."""
        return _sum(self.between(source, target) for target in targets)


def _sum(counts: Iterable[MessageCount]) -> MessageCount:
    total = MessageCount()
    for count in counts:
        total.add(count)
    return total
