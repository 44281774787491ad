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
from collections.abc import Iterable

from ..runs.folder_links import find_stray_link, linked_folders
from ..runs.folders import files_below

_LINK = "metrics"  # below a task's folder: layout.py
_SPARE_FILES = 256  # that the data server opens beside event files, at least a twentieth
_RECOUNT_S = 60.0  # event files that appear meanwhile are not counted
_MANY_FILES = 16  # of one task: with fewer tasks than fit then, their files are not counted
_FILES_OF_NEW = 4  # are expected of a task that has just begun
_MAX_STRAY = 5  # tasks that the notes name
_LEFT_OUT = "TensorBoard holds every event file open, and may open no more (ulimit -Hn)"


class RunLinks:
    """The links of one board."""

    def __init__(self, folder: str, *, root: str, max_files: int) -> None:
        """Nothing is made yet. root: the state folder. max_files: that the data server may open."""
        self.folder = folder
        self._root = root
        self._max_files = max(1, max_files - max(_SPARE_FILES, max_files // 20))
        self._files: dict[str, int] = {}  # by key, the oldest run first: its event files, or _MANY_FILES
        self._left_out: set[str] = set()  # keys
        self._stray: dict[str, str] = {}  # key -> why it has no link any more
        self._counted_s: float | None = None  # when files were counted last; None: it was not necessary yet

    def notes(self) -> list[str]:
        """Return a sentence for each reason why curves are missing."""
        notes = list(self._stray.values())
        if len(notes) > _MAX_STRAY:
            notes[_MAX_STRAY:] = [f"{len(notes) - _MAX_STRAY:,} further tasks have such links"]
        if self._left_out:
            notes.append(f"{len(self._left_out):,} older tasks are shown without their curves: {_LEFT_OUT}")
        return notes

    def check(self, run: str, key: str) -> None:
        """Remove the link of a run in whose folder the data server would follow a link that it must not.

        From a link to /, it would look at every folder of the machine, once a second.
        """
        if key in self._files and self._is_stray(run, key):
            reason = self._stray[key]
            self.remove(key)
            self._stray[key] = reason

    def _is_stray(self, run: str, key: str) -> bool:
        """Whether the folder has such a link; why is noted."""
        link = find_stray_link(run)
        if link is not None:
            leads_to = os.path.realpath(f"{run}/{link}")
            self._stray[key] = (
                f"{os.path.basename(run)} is shown without its curves: {link!r} among its metrics is a link"
                f" to {leads_to}"
            )
        return link is not None

    def add(self, runs: Iterable[tuple[str, str]]) -> None:
        """Link the runs, given the latest first, each with its key: a name in the folder. Raises OSError."""
        new = [(run, key) for run, key in runs if key not in self._files and key not in self._left_out]
        if not new:
            return
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        fitting = self._fitting(new)
        for run, key in reversed(new):
            if key in fitting and not self._is_stray(run, key):
                self._link(run, f"{self.folder}/{key}")
                self._files[key] = fitting[key]  # only now: a link that failed is made by the next call
            elif key not in fitting:
                self._left_out.add(key)

    def remove(self, key: str) -> None:
        """Remove the link of a run."""
        self._left_out.discard(key)
        self._stray.pop(key, None)
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
    places = (folder, *linked_folders(folder))
    return sum("tfevents" in entry.name for place in places for entry in files_below(place))
