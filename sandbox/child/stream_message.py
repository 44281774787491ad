"""A message of a stream, as the child gets it.

Python 3.8 and newer.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from ..shared import stream_frames
from ..shared.shared_rings import SharedRings
from ..shared.stream_frames import MESSAGE_HEAD, StreamFrame


class StreamMessage(NamedTuple):
    """A message for the listeners."""

    number: int
    source: int  #: number of the connection
    origin: str  #: name of the parent node
    flow: bytes  #: what is left of its flow, encoded
    header: bytes
    payload: stream_frames.Buffer
    rings: Optional[SharedRings]  #: in which the payload is; None: it is in memory of its own
    place: stream_frames.Buffer  #: of the payload in the rings

    def free(self) -> None:
        """Have the memory of a payload in the rings used again: it is not needed any more."""
        if self.rings is not None:
            self.rings.free(self.place)

    def owned(self) -> StreamMessage:
        """Return the message with a payload of its own. Raises MemoryError."""
        if self.rings is None:
            return self
        payload = bytes(self.payload)
        self.free()
        return self._replace(payload=payload, rings=None)


def read_message(frame: StreamFrame, rings: Optional[SharedRings]) -> StreamMessage:
    """Return the message of a MESSAGE, or of a MESSAGE_PLACE: its payload stays in the rings."""
    source, origin_length, flow_length = MESSAGE_HEAD.unpack_from(frame.body)
    view = memoryview(frame.body)
    flow_at = MESSAGE_HEAD.size + origin_length
    header_at = flow_at + flow_length
    payload_at = header_at + stream_frames.PAYLOAD_HEADER
    payload: stream_frames.Buffer = view[payload_at:]
    place = payload
    if frame.kind != stream_frames.MESSAGE_PLACE:
        rings = None
    elif rings is not None:
        payload = rings.at(place)
    return StreamMessage(
        frame.number,
        source,
        str(view[MESSAGE_HEAD.size : flow_at], "utf-8"),
        bytes(view[flow_at:header_at]),
        bytes(view[header_at:payload_at]),
        payload,
        rings,
        place,
    )
