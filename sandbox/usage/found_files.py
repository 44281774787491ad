"""Files below a folder of shared memory, as a scan finds them."""

from __future__ import annotations

import os
from typing import NamedTuple

from .shared_memory_holders import Key, key_of

#: Most entries read in one scan; a stranger's folder may hold any number.
ENTRIES_A_SCAN = 20_000


class File(NamedTuple):
    """A file as a scan found it."""

    path: str
    size: int  #: occupied bytes


def files_below(folder: str) -> dict[Key, File]:
    """Return the files in this folder and in the folders below it."""
    found: dict[Key, File] = {}
    waiting = [folder]
    while waiting and len(found) < ENTRIES_A_SCAN:
        try:
            entries = os.scandir(waiting.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
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
