"""Messages as datagrams of a SOCK_SEQPACKET pair, so that none is cut or joined.

A datagram is a byte with the kind of the message, and the body of its frame (see message_format.py).
Descriptors may travel with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from .channel import Frame
from .message_format import ProcessMessage, body_of, decode

#: The longest datagram; the kernel takes one of 208 KiB, unless net.core.wmem_default was changed.
DATAGRAM_MAX = 160 * 1024


def datagram_of(message: ProcessMessage) -> bytes:
    """Return the datagram of a message without a memfd."""
    data = bytes((message.kind,)) + body_of(message)
    assert len(data) <= DATAGRAM_MAX, f"{type(message).__name__}: long texts are cut before, see cut()"
    return data


def message_of(data: bytes, known: Mapping[int, type[ProcessMessage]]) -> ProcessMessage:
    """Return the message in a datagram. Raises ChannelError if it is not one of the known kinds."""
    return decode(Frame(data[0], 0, data[1:]), known)


def cut(text: str, most_bytes: int) -> str:
    """Return the text; without its middle if it would take more bytes than this in a datagram."""
    kept, half = text, min(len(text), most_bytes) // 2
    while len(kept) > most_bytes or len(json.dumps(kept)) > most_bytes:
        half = half * 3 // 4
        kept = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return kept
