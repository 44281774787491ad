"""The names of files that are being written, in a memfd of hkrunner's that outlives the storage process.

A process that is killed leaves the file that it was writing. The next one has the same memfd, and removes the
file: a part of the name is random, so that whatever has this name is what was left.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator

#: Room for one name: the kernel takes none that is longer.
_SLOT = 4096


class UnfinishedFiles:
    """Names in slots: a thread that hangs may have a file of its own."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        used = range(os.fstat(fd).st_size // _SLOT)
        names = {slot: os.pread(fd, _SLOT, slot * _SLOT).partition(b"\0")[0] for slot in used}
        self._begun = {slot: name for slot, name in names.items() if name}
        self._left = list(self._begun)  #: by an earlier process
        self._free = [slot for slot in used if slot not in self._begun]
        self._new = itertools.count(len(used))

    @contextlib.contextmanager
    def noted(self, file: str) -> Iterator[None]:
        """Have the name of a file noted while it is written. Raises OSError."""
        left, self._left = self._left, []
        self._remove(left)
        slot = self._free.pop() if self._free else next(self._new)
        name = os.fsencode(file)
        os.pwrite(self._fd, name.ljust(_SLOT, b"\0"), slot * _SLOT)
        self._begun[slot] = name
        try:
            yield
        finally:
            self._forget(slot)

    def remove_all(self) -> None:
        """Remove every file that is noted: the process ends."""
        self._remove(list(self._begun))

    def _remove(self, slots: list[int]) -> None:
        for slot in slots:
            with contextlib.suppress(OSError):
                os.unlink(self._begun[slot])
            self._forget(slot)

    def _forget(self, slot: int) -> None:
        os.pwrite(self._fd, b"\0", slot * _SLOT)
        if self._begun.pop(slot, None) is not None:  # else another thread removes all
            self._free.append(slot)
