"""The statistics that HKube's worker gets every 2 s: by them its auto-scaler starts and stops replicas."""

from __future__ import annotations

from collections import deque
from typing import Any

from .message_queue import MessageQueue

#: Samples of each kind in a report.
SAMPLES_MAX = 10


class NodeSamples:
    """What was measured for one next node since the last report."""

    def __init__(self) -> None:
        self.responses = 0  #: number of messages done since the start of the stream
        self.queued: deque[float] = deque(maxlen=SAMPLES_MAX)  #: seconds in the queue
        self._durations: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._round_trips: deque[float] = deque(maxlen=SAMPLES_MAX)

    def responded(self, duration_ms: float, round_trip_ms: float) -> None:
        """Count a message that is done."""
        self.responses += 1
        self._durations.append(duration_ms)
        self._round_trips.append(round_trip_ms)

    def take(self) -> dict[str, Any]:
        """Return the fields of a report, and forget the samples; `responses` goes on counting."""
        found = {
            "netDurations": [round(one, 4) for one in self._durations],
            "durations": [round(one, 4) for one in self._round_trips],
            "queueDurations": [round(one * 1000, 4) for one in self.queued],
            "responses": self.responses,
        }
        for samples in (self._durations, self._round_trips, self.queued):
            samples.clear()
        return found


def report(queue: MessageQueue, samples: dict[str, NodeSamples]) -> list[dict[str, Any]]:
    """Return the data of `streamingStatistics`: one item for each next node, and for no other."""
    return [
        {
            "nodeName": node,
            "sent": one.sent,
            "queueSize": one.size,
            "dropped": one.dropped,
            **samples[node].take(),
        }
        for node, one in queue.nodes.items()
    ]
