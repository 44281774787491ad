"""The folders of one recorded task: their size, and their removal."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ...sandbox.linux.remove_tree import remove_tree
from ..errors import StoreError


def remove_folders(root: Path, folder: Path, metrics_dir: Path | None) -> None:
    """Remove both folders; metrics first, so that a task that is still listed can be removed again.

    metrics_dir: None for a record without one. Raises StoreError.
    """
    try:
        if metrics_dir is not None and metrics_dir.is_symlink():
            metrics_dir.unlink()  # to a folder that the user has named, and keeps
            _remove_empty_parents(metrics_dir.parent, root / "runs")
        elif metrics_dir is not None and metrics_dir.exists():
            _remove(metrics_dir)
            _remove_empty_parents(metrics_dir.parent, root / "runs")
        if folder.exists():
            _remove(folder)
    except OSError as error:
        raise StoreError(f"task {folder.name} cannot be removed completely: {error}") from error


def _remove(folder: Path) -> None:
    if (error := remove_tree(str(folder))) is not None:
        raise error


def _remove_empty_parents(folder: Path, top: Path) -> None:
    while folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def measure(folder: Path) -> tuple[int, int]:
    """Return the bytes on disk below the folder, and the number of event files; links are not followed."""
    size = event_files = 0
    for entry in files_below(str(folder)):
        try:
            size += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:  # removed meanwhile
            continue
        event_files += "tfevents" in entry.name
    return size, event_files


def files_below(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield everything below the folder that is no folder itself; links are not followed.

    What cannot be read, or has a longer path than the system takes, is left out. Not recursive: code may have
    nested folders deeper than Python's limit on recursion.
    """
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        yield entry
        except OSError:
            continue


def open_plain(path: str | Path) -> BinaryIO:
    """Open a regular file for reading. Raises OSError for anything else: a pipe could block for ever."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return open(fd, "rb")
