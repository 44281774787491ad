"""Temporary folders that multiprocessing makes in a run, and cannot remove if its process is killed.

Each has the socket of a Manager, a Listener or a fork server. The process that makes one reports it
(child/shared_memory_reports.py).
"""

from __future__ import annotations

import os

from .shared_memory_holders import Key, key_of

#: How the names of these folders begin.
PREFIX = "pymp-"
#: Most folders that are remembered; a process makes one.
KEPT = 10_000


class TemporaryFolders:
    """The temporary folders of one run, by device and inode."""

    def __init__(self) -> None:
        self._paths: dict[Key, str] = {}

    def note(self, key: Key, path: str) -> None:
        """Note what a process of the run says to have made, if it is such a folder."""
        if os.path.basename(path).startswith(PREFIX) and len(self._paths) < KEPT:
            self._paths[key] = path

    def remove(self) -> None:
        """Remove those that are left; called after the last process of the run has ended."""
        for key, path in self._paths.items():
            if key_of(path) == key:
                from ..linux.remove_tree import remove_tree  # late: few runs leave one

                remove_tree(path)
        self._paths.clear()
