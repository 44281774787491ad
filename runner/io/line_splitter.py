"""A stream of bytes cut into lines of bounded length."""

from __future__ import annotations

#: Bytes of a line that are returned; of the rest, only the number.
LINE_MAX = 10_000


class LineSplitter:
    """The lines of one stream, however its bytes are cut into pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self._cut = 0  #: bytes of the present line beyond LINE_MAX

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are now complete, without their ends."""
        lines: list[str] = []
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._add(part)
            lines.append(self._complete())
        self._add(rest)
        return lines

    def finish(self) -> list[str]:
        """Return the last line if the stream ended without an end of line; [] otherwise."""
        return [self._complete()] if self._rest or self._cut else []

    def _add(self, part: bytes) -> None:
        room = LINE_MAX - len(self._rest)
        self._rest += part[:room]
        self._cut += max(0, len(part) - room)

    def _complete(self) -> str:
        text = self._rest.decode("utf-8", "replace")
        if self._cut:
            text += f" [hkrunner: {self._cut:,} bytes cut]"
        self._rest, self._cut = b"", 0
        return text
