"""The last lines of what an algorithm printed."""

from __future__ import annotations

from collections import deque

#: Number of lines that the message of a failure shows.
LAST_LINES = 10
_TAIL_BYTES = 4096


class OutputTail:
    """Remembers the end of an output that comes in pieces."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0

    def add(self, data: bytes) -> None:
        """Remember the end of this piece, and forget what is too old."""
        self._pieces.append(data[-_TAIL_BYTES:])
        self._size += len(self._pieces[-1])
        while self._size - len(self._pieces[0]) >= _TAIL_BYTES:
            self._size -= len(self._pieces.popleft())

    def last_lines(self) -> tuple[str, ...]:
        """Return the last lines that are not blank."""
        text = b"".join(self._pieces).decode("utf-8", "replace")
        lines = [line[:400] for line in text.splitlines() if line.strip()]
        return tuple(lines[-LAST_LINES:])
