"""What one task prints: pieces of the journal while it is little, then files in the task's folder.

Either way each piece is with the kernel when append() returns.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from .disk_problems import DiskProblems
from .files import write_all

if TYPE_CHECKING:
    from .journal import Journal

#: A task that prints more, or in more pieces, gets files: a new file and folder cost as much as 20 pieces.
JOURNAL_BYTES_MAX = 16 * 1024
JOURNAL_PIECES_MAX = 64


class RecordedOutput:
    """The output of one task. Never raises for the disk."""

    def __init__(self, stream_limit_bytes: int, disk: DiskProblems) -> None:
        """Nothing is kept yet. stream_limit_bytes: of each stream; the rest is cut, and one line says so."""
        self._limit_bytes = stream_limit_bytes
        self._disk = disk
        self._in_journal: list[tuple[str, bytes]] = []
        self._journal_bytes_left = min(JOURNAL_BYTES_MAX, stream_limit_bytes - 1)
        self._fds: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._is_stopped = False

    def append_to_journal(self, journal: Journal, number: int, stream: str, data: bytes) -> bool:
        """Add output of a task with this number to the journal; return False if it needs a file.

        So it does if the journal could not be written.
        """
        if self._is_stopped:
            return True
        left = self._journal_bytes_left - len(data)
        if left < 0 or len(self._in_journal) == JOURNAL_PIECES_MAX:
            return False
        try:
            journal.log(number, stream, data)
        except OSError:
            return False
        self._journal_bytes_left = left
        self._in_journal.append((stream, data))
        return True

    def stop(self) -> None:
        """Keep nothing of what comes from now on: a piece could not be kept, and no hole shall be hidden."""
        self._is_stopped = True

    def move_to_files(self, folder: str) -> bool:
        """Write what is in the journal to the task's files; return whether all of it is there.

        If not, the files are removed again, and it stays in the journal only.
        """
        streams = dict.fromkeys(stream for stream, _ in self._in_journal)
        for stream in streams:
            data = b"".join(data for one, data in self._in_journal if one == stream)
            if not self.append_to_file(folder, stream, data):
                break
        else:
            self._in_journal = []
            return True
        self.close()
        self._sizes.clear()
        for stream in streams:
            with contextlib.suppress(OSError):
                os.unlink(f"{folder}/{stream}.log")
        return False

    def append_to_file(self, folder: str, stream: str, data: bytes) -> bool:
        """Add output to the file of this stream, up to the limit; return whether that was possible."""
        size = self._sizes.get(stream, 0)
        room = self._limit_bytes - size
        if room <= 0:
            return True
        self._sizes[stream] = size + len(data)
        if len(data) >= room:
            limit = _human_bytes(self._limit_bytes)
            data = data[:room] + f"\n[hkrunner: {stream} is cut here, {limit} are kept of a task]\n".encode()
            self._sizes[stream] = self._limit_bytes
        try:
            fd = self._fds.get(stream)
            if fd is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                fd = self._fds[stream] = os.open(f"{folder}/{stream}.log", flags, 0o666)
            write_all(fd, data)
        except OSError as error:
            self._disk.note(f"{stream}.log", error)
            return False
        return True

    def close(self) -> None:
        """Close the files."""
        for fd in self._fds.values():
            try:
                os.close(fd)
            except OSError as error:  # NFS reports a full disk as late as this
                self._disk.note("output", error)
        self._fds.clear()


def _human_bytes(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"
