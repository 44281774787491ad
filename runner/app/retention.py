"""Which records are kept (--keep): of all there are at the end, of our own in between."""

from __future__ import annotations

import os

from ..console.terminal import Output
from ..io.loop import Loop
from ..protocol.result import Result

#: Records are removed in a pause of the worker's: after a deletion ext4 is slow with new files for minutes
#: (0.3 ms each after some thousand, measured), and the next tasks would pay for it.
PAUSE_S = 1.0
#: Without such a pause, up to so many times as many are kept.
MOST_TIMES = 10
#: Removed in one turn of the loop: 6 ms.
AT_ONCE = 20
NEXT_S = 0.005


class Keeper:
    """Only the records of the latest tasks are kept; trouble is told once and ends nothing."""

    def __init__(self, loop: Loop, root: str, most: int, output: Output) -> None:
        """most: how many records are kept."""
        self._loop = loop
        self._root = root
        self._most = most
        self._output = output
        self._ended = _Names()  #: of folders below tasks/
        self._latest = 0.0
        self._waiting = False
        self._told = False

    def look_at_all(self) -> None:
        """Of all tasks in the state folder the latest are left, whoever made them: some 100 µs a task."""
        from pathlib import Path

        from ...boards.errors import BoardError
        from ...boards.runs.history import keep_latest

        try:
            keep_latest(Path(self._root), self._most)
        except BoardError as error:
            self._tell(error)

    def ended(self, result: Result) -> None:
        """A task of ours has ended; what is surplus is removed later, from the loop."""
        if result.folder is None:
            return
        self._ended.append(os.path.basename(result.folder))
        self._latest = self._loop.clock()
        if not self._waiting and len(self._ended) > self._most:
            self._waiting = True
            self._loop.after(PAUSE_S, self._look)

    def _look(self) -> None:
        surplus = len(self._ended) - self._most
        pause_s = self._loop.clock() - self._latest
        if pause_s < PAUSE_S and len(self._ended) <= MOST_TIMES * self._most:
            self._loop.after(PAUSE_S - pause_s, self._look)
            return
        self._remove(min(surplus, AT_ONCE))
        self._waiting = surplus > AT_ONCE
        if self._waiting:
            self._loop.after(NEXT_S, self._look)

    def _remove(self, count: int) -> None:
        from pathlib import Path

        from ...boards.errors import BoardError
        from ...boards.runs.history import remove_task

        root = Path(self._root)
        for _ in range(count):
            try:
                remove_task(root, self._ended.popleft())
            except BoardError as error:
                self._tell(error)

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            self._output.warn(f"✘ --keep: {error}")


class _Names:
    """A queue of names in one piece of memory: 10,000 take 150 KB, as texts in a deque 1.4 MB."""

    def __init__(self) -> None:
        self._data = bytearray()  # each with a slash, which no name has, behind it
        self._begin = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, name: str) -> None:
        self._data += os.fsencode(name) + b"/"
        self._count += 1

    def popleft(self) -> str:
        end = self._data.index(b"/", self._begin)
        name = os.fsdecode(bytes(self._data[self._begin : end]))
        self._begin, self._count = end + 1, self._count - 1
        if self._begin > len(self._data) // 2:
            del self._data[: self._begin]
            self._begin = 0
        return name
