"""The folder that TensorBoard's data server reads for a board: a link to each run folder, and nothing else.

    boards/view-<host>-<pid>/<key> -> ../../runs/<pipeline>/<node>/<job>/<task>

The data server follows links. It holds every event file open, and if it may open no more it fails to list
the folder and forgets all runs. So a board of many tasks links the latest ones, as many as can be open.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator

_LINK = "metrics"  # below a task's folder: layout.py
_SPARE_FILES = 256  # that the data server opens beside event files, at least a twentieth
_RECOUNT_S = 60.0  # event files that appear meanwhile are not counted
_MANY_FILES = 16  # of one task: with fewer tasks than fit then, their files are not counted
_FILES_OF_NEW = 4  # are expected of a task that has just begun
_MAX_DEPTH = 4  # of folders below a run folder whose files are counted


class RunLinks:
    """The links of one board."""

    def __init__(self, folder: str, *, root: str, max_files: int) -> None:
        """Nothing is made yet. root: the state folder. max_files: that the data server may open."""
        self.folder = folder
        self._root = root
        self._max_files = max(1, max_files - max(_SPARE_FILES, max_files // 20))
        self._files: dict[str, int] = {}  # by key, the oldest run first: its event files, or _MANY_FILES
        self._left_out: set[str] = set()  # keys
        self._counted_s: float | None = None  # when files were counted last; None: it was not necessary yet

    @property
    def left_out(self) -> int:
        """How many runs have no link, since the data server may not open so many files."""
        return len(self._left_out)

    def add(self, runs: Iterable[tuple[str, str]]) -> None:
        """Link the runs, given the latest first, each with its key: a name in the folder. Raises OSError."""
        new = [(run, key) for run, key in runs if key not in self._files and key not in self._left_out]
        if not new:
            return
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        fitting = self._fitting(new)
        for run, key in reversed(new):
            if key in fitting:
                self._link(run, f"{self.folder}/{key}")
                self._files[key] = fitting[key]  # only now: a link that failed is made by the next call
            else:
                self._left_out.add(key)

    def remove(self, key: str) -> None:
        """Remove the link of a run."""
        self._left_out.discard(key)
        if key in self._files:
            del self._files[key]
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.folder}/{key}")

    def remove_all(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _fitting(self, runs: list[tuple[str, str]]) -> dict[str, int]:
        """Return how many files each run has that can be linked; older links are removed for it."""
        if (len(self._files) + len(runs)) * _MANY_FILES <= self._max_files:
            return {key: _MANY_FILES for _, key in runs}
        if self._counted_s is None or time.monotonic() - self._counted_s > _RECOUNT_S:
            self._counted_s = time.monotonic()
            self._files = {key: count_event_files(f"{self.folder}/{key}") for key in self._files}
        fitting: dict[str, int] = {}
        total = 0
        for run, key in runs:
            count = count_event_files(run) or _FILES_OF_NEW
            if total + count <= self._max_files:
                fitting[key] = count
                total += count
        total += sum(self._files.values())
        while self._files and total > self._max_files:
            oldest = next(iter(self._files))
            total -= self._files[oldest]
            self.remove(oldest)
            self._left_out.add(oldest)
        return fitting

    def _link(self, run: str, link: str) -> None:
        """Link the run folder.

        A task's folder has such a link, which gets a second name here: a link of our own would take an inode,
        and ext4 hands inodes out slowly after many were deleted. Both lie two folders below the state folder.
        """
        shared = f"{self._root}/tasks/{os.path.basename(run)}/{_LINK}"
        with contextlib.suppress(FileExistsError):
            try:
                if os.readlink(shared) == f"../..{run[len(self._root) :]}":
                    os.link(shared, link, follow_symlinks=False)
                    return
            except FileExistsError:
                return
            except OSError:  # no task's, or a file system without a second name for a link
                pass
            if os.path.isdir(run):
                os.symlink(run, link)


def count_event_files(folder: str) -> int:
    """Return how many event files there are in the folder and below it."""
    return sum(1 for _ in _event_files(folder, _MAX_DEPTH))


def _event_files(folder: str, depth: int) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if "tfevents" in entry.name and not entry.is_dir():
                    yield entry.path
                elif depth and entry.is_dir():
                    yield from _event_files(entry.path, depth - 1)
    except OSError:  # removed meanwhile
        return
