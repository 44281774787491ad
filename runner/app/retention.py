"""--keep: only the records of the latest tasks stay on disk.

At the end of a run all records of the state folder count; while a worker is served, only those of this
process. Most of these are in the journal, which forgets any number of them with one line.
"""

from __future__ import annotations

import os

from ...boards.runs.store import Store
from ..console.terminal import Output
from ..io.loop import Loop
from ..protocol.result import Result

#: Records are removed once no task has ended for this long. After deletions ext4 makes new files slowly for
#: minutes (0.3 ms each after some thousand, measured), and the next tasks would pay for it.
PAUSE_S = 1.0
#: Without such a pause, up to this many times the number to keep stays on disk.
MOST_TIMES = 10
#: Records removed in one turn of the loop: 6 ms; and those of the journal that have no folder: 2 ms.
AT_ONCE = 20
FORGOTTEN_AT_ONCE = 500
NEXT_S = 0.005
#: Marks a task of the journal in the queue, before its number and its name: no name contains it.
_IN_JOURNAL = "\0"


class Retention:
    """Removes the records of all but the latest tasks. The first error is reported; none ends the run."""

    def __init__(self, loop: Loop, root: str, most: int, output: Output, store: Store | None = None) -> None:
        """most: how many records to keep. store: its journal has tasks that have no folder."""
        self._loop = loop
        self._store = store
        self._root = root
        self._most = most
        self._output = output
        self._ended = NameQueue()  # of our tasks' folders
        self._last_end = 0.0  # by the loop's clock
        self._is_scheduled = False
        self._has_reported = False

    def remove_surplus(self) -> None:
        """Leave only the latest tasks in the state folder, those of other runs included; 100 µs a task."""
        from pathlib import Path

        from ...boards.errors import BoardError
        from ...boards.runs.history import keep_latest

        try:
            keep_latest(Path(self._root), self._most)
        except BoardError as error:
            self._report(error)

    def task_ended(self, result: Result) -> None:
        """One more of our tasks has a record; the surplus is removed later, from the loop."""
        if result.journal_number is not None:
            self._ended.append(f"{_IN_JOURNAL}{result.journal_number}{_IN_JOURNAL}{result.record_name}")
        elif result.folder is not None:
            self._ended.append(os.path.basename(result.folder))
        else:
            return
        self._last_end = self._loop.clock()
        if not self._is_scheduled and len(self._ended) > self._most:
            self._is_scheduled = True
            self._loop.after(PAUSE_S, self._remove_in_pause)

    def _remove_in_pause(self) -> None:
        """Remove some records if no task has ended lately or there are too many; else look again later."""
        surplus = len(self._ended) - self._most
        pause_s = self._loop.clock() - self._last_end
        if pause_s < PAUSE_S and len(self._ended) <= MOST_TIMES * self._most:
            self._loop.after(PAUSE_S - pause_s, self._remove_in_pause)
            return
        self._remove(surplus)
        self._is_scheduled = len(self._ended) > self._most
        if self._is_scheduled:
            self._loop.after(NEXT_S, self._remove_in_pause)

    def _remove(self, count: int) -> None:
        """Remove the oldest records, but no more than AT_ONCE folders, and FORGOTTEN_AT_ONCE in all."""
        from pathlib import Path

        from ...boards.errors import BoardError
        from ...boards.runs.history import remove_task

        root, folders, last_number = Path(self._root), 0, None
        for _ in range(min(count, FORGOTTEN_AT_ONCE)):
            name = self._ended.popleft()
            if name.startswith(_IN_JOURNAL):
                _, number, name = name.split(_IN_JOURNAL)
                last_number = int(number)
                if not os.path.exists(f"{self._root}/tasks/{name}"):
                    continue  # else it got a folder after its end, for metrics that were written late
            try:
                remove_task(root, name)
            except BoardError as error:
                self._report(error)
            folders += 1
            if folders == AT_ONCE:
                break
        if self._store is not None and last_number is not None:
            try:
                self._store.forget_before(last_number + 1)
            except OSError as error:
                self._report(error)

    def _report(self, error: Exception) -> None:
        if not self._has_reported:
            self._has_reported = True
            self._output.warn(f"✘ --keep: {error}")


class NameQueue:
    """A queue of file names in one piece of memory: 10,000 take 150 kB, as strings in a deque 1.4 MB."""

    def __init__(self) -> None:
        self._data = bytearray()  # each name is followed by a slash, which no name contains
        self._begin = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, name: str) -> None:
        """The name is the last of the queue."""
        self._data += name.encode() + b"/"
        self._count += 1

    def popleft(self) -> str:
        """Take the first name off the queue."""
        end = self._data.index(b"/", self._begin)
        name = self._data[self._begin : end].decode()
        self._begin, self._count = end + 1, self._count - 1
        if self._begin > len(self._data) // 2:
            del self._data[: self._begin]
            self._begin = 0
        return name
