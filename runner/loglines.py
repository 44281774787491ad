"""Whole lines out of what an algorithm prints, for HKube's logData message (--redirect-logs)."""

from __future__ import annotations

#: Of a longer line its beginning is sent.
LINE_MAX = 10_000


class LogLines:
    """One stream of one task."""

    def __init__(self) -> None:
        self._rest = b""
        self._cut = 0  #: bytes of the present line that are left out
        self._dropped = 0

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are now complete, without their ends."""
        lines: list[str] = []
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._add(part)
            lines.append(self._take())
        self._add(rest)
        return lines

    def finish(self) -> list[str]:
        """Return what is left when the task is over: a line without an end."""
        return [self._take()] if self._rest or self._cut else []

    def drop(self, count: int) -> None:
        """That many lines could not be sent."""
        self._dropped += count

    def missed(self) -> list[str]:
        """Return a line about those that were dropped since the last call, if there were any."""
        count, self._dropped = self._dropped, 0
        return [f"[hkrunner: {count:,} lines were dropped here: the worker is too slow]"] if count else []

    def _add(self, part: bytes) -> None:
        room = LINE_MAX - len(self._rest)
        self._rest += part[:room]
        self._cut += max(0, len(part) - room)

    def _take(self) -> str:
        text = self._rest.decode("utf-8", "replace")
        if self._cut:
            text += f" [hkrunner: {self._cut:,} bytes cut]"
        self._rest, self._cut = b"", 0
        return text
