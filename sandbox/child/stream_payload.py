"""Payloads of a stream's messages, with HKube's header: binary values as they are, all others encoded.

Python 3.8 and newer.
"""

from __future__ import annotations

from typing import Any, List, Tuple

from ..codec import codec
from ..shared.stream_frames import Buffer

#: HKube's header: version, its length, kind of the payload, encoding, two unused bytes, "HK".
_ENCODINGS = {"bson": 1, "json": 2, "msgpack": 3}
_RAW, _ENCODED = 1, 2
_MAGIC = b"HK"


class PayloadCodec:
    """Makes payloads of values, and values of payloads."""

    def __init__(self, encoding: str) -> None:
        kind = _ENCODINGS[encoding]
        self._encoding = encoding
        self._headers = {one: bytes((1, 8, one, kind, 0, 0)) + _MAGIC for one in (_RAW, _ENCODED)}
        codec.prepare(encoding, later=False)

    def encode(self, value: Any) -> Tuple[bytes, List[memoryview]]:
        """Return the header and the payload, in pieces: large binary values are not copied.

        Raises ResultInvalid. The caller releases the views: until then, no thread can change the size of a
        bytearray of the user's.
        """
        kind = type(value)
        if kind is bytes or kind is bytearray:
            return self._headers[_RAW], [memoryview(value)]
        if kind is memoryview:
            return self._headers[_RAW], [memoryview(value if value.c_contiguous else bytes(value))]
        pieces = codec.encode_value_pieces(self._encoding, value)
        return self._headers[_ENCODED], [memoryview(one) for one in pieces]

    def decode(self, header: bytes, payload: Buffer) -> Any:
        """Return what was sent, which has nothing of the payload's memory. Raises ValueError, MemoryError."""
        is_hkubes = header[-2:] == _MAGIC
        if is_hkubes and header[2] == _RAW:
            return bytes(payload)
        try:
            return codec.decode(self._encoding, payload)
        except ValueError:
            if is_hkubes:
                raise
            return bytes(payload)
