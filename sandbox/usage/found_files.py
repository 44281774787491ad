"""Files below a folder of shared memory, as a scan finds them."""

from __future__ import annotations

import os
from typing import NamedTuple

from .shared_memory_holders import Key, key_of


class Bounds(NamedTuple):
    """How much one scan looks at: nothing is enforced meanwhile."""

    entries: int  #: of folders; a stranger's may hold any number
    reported: int  #: of what the run has reported, apart from what is found anyway
    is_whole: bool = True  #: no scan while the run lasts looks at more


QUICK = Bounds(20_000, 4000, is_whole=False)
#: Of a scan that decides on a kill.
WHOLE = Bounds(200_000, 200_000)
AT_THE_END = Bounds(2_000_000, 200_000)


class File(NamedTuple):
    """A file as a scan found it."""

    path: str
    size: int  #: occupied bytes


class FolderWalk:
    """Reads folders until so many entries were read; none is read twice.

    A stranger's folder may hold any number of files or folders, and one reported folder lies in another.
    """

    def __init__(self, most: int) -> None:
        self.left = most  #: entries that may still be read
        self._walked: set[str] = set()

    @property
    def is_over(self) -> bool:
        """Whether nothing more may be read."""
        return self.left <= 0

    def take(self) -> bool:
        """Count an entry; return whether it may be read."""
        self.left -= 1
        return self.left >= 0

    def files_below(self, folder: str) -> dict[Key, File]:
        """Return the files in this folder and in the folders below it, but for folders read before."""
        found: dict[Key, File] = {}
        waiting = [folder]
        while waiting and not self.is_over:
            if (folder := waiting.pop()) in self._walked:
                continue
            self._walked.add(folder)
            try:
                entries = os.scandir(folder)
            except OSError:
                continue
            with entries:
                for entry in entries:
                    if not self.take():
                        break
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        else:
                            facts = entry.stat(follow_symlinks=False)
                            found[facts.st_dev, facts.st_ino] = File(entry.path, facts.st_blocks * 512)
                    except OSError:
                        continue
        return found


def file_at(path: str) -> File | None:
    """Return the file at this path, None if there is none."""
    try:
        return File(path, os.lstat(path).st_blocks * 512)
    except OSError:
        return None


def has_several_names(path: str) -> bool:
    """Whether the file at this path has other names."""
    try:
        return os.lstat(path).st_nlink > 1
    except OSError:  # it has just been removed
        return False


def unlink_same(path: str, key: Key) -> bool:
    """Remove the file if it is still this one; return whether it was removed."""
    if key_of(path) != key:
        return False
    try:
        os.unlink(path)
    except OSError:
        return False
    return True
