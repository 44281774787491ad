"""Finds by /proc which processes hold which files of shared memory: open descriptors and maps.

Device and inode are compared, never names: a semaphore is made under a temporary name, linked to its final
name and unlinked, so that its maker's map shows the temporary name as deleted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable

from ..linux import procfs

Key = tuple[int, int]  # device and inode

#: Most descriptors of one process read in one scan; the next scan continues after them.
FDS_A_SCAN = 4096
_DELETED = " (deleted)"


class Descriptors:
    """Reads the open descriptors of a tree, over several scans for a process that has many."""

    def __init__(self, folders: Collection[str]) -> None:
        self._folders = tuple(folder + "/" for folder in folders)
        self._offset: dict[int, int] = {}
        #: Memfds, and files whose names were removed: name and occupied bytes by key.
        self.nameless: dict[Key, tuple[str, int]] = {}
        #: Paths of files that are open for writing, by process and key.
        self.written: dict[tuple[int, Key], str] = {}

    def read(self, pids: Iterable[int]) -> None:
        """Bring `nameless` and `written` up to date."""
        self.written = {}
        nameless: dict[Key, tuple[str, int]] = {}
        is_whole = True
        for pid in pids:
            base = f"/proc/{pid}/fd/"
            try:
                names = os.listdir(base)
            except OSError:
                continue
            if len(names) > FDS_A_SCAN:
                is_whole = False
                start = self._offset.get(pid, 0) % len(names)
                self._offset[pid] = start + FDS_A_SCAN
                names = (names[start:] + names[:start])[:FDS_A_SCAN]
            for name in names:
                try:
                    self._read_one(pid, base + name, nameless)
                except OSError:
                    continue  # closed, or its process has ended
        self.nameless = nameless if is_whole else {**self.nameless, **nameless}

    def _read_one(self, pid: int, path: str, nameless: dict[Key, tuple[str, int]]) -> None:
        link = os.readlink(path)
        if link[:7] == "/memfd:":
            facts = os.stat(path)
            title = link[7:].removesuffix(_DELETED)
            nameless[facts.st_dev, facts.st_ino] = (title, facts.st_blocks * 512)
        elif link.startswith(self._folders):
            facts = os.stat(path)
            key = (facts.st_dev, facts.st_ino)
            if not stat.S_ISREG(facts.st_mode):
                return
            if facts.st_nlink == 0:
                nameless[key] = (link.removesuffix(_DELETED), facts.st_blocks * 512)
            elif os.lstat(path).st_mode & stat.S_IWUSR:  # the link's own mode says how the file is open
                self.written[pid, key] = link


def mapped_by(pids: Iterable[int], devices: Collection[int], *, for_writing: bool = False) -> dict[Key, str]:
    """Return the files on these devices that the processes have mapped, with their paths at that time.

    `for_writing`: only shared maps that can be written.
    """
    wanted = {f" {os.major(one):02x}:{os.minor(one):02x} ".encode(): one for one in devices}
    found: dict[Key, str] = {}
    for pid in pids:
        try:
            text = procfs.read_all(f"/proc/{pid}/maps")
        except OSError:
            continue
        for number, device in wanted.items():
            at = text.find(number)
            while at >= 0:
                how = text[text.rfind(b"\n", 0, at) + 1 : at].split()[1]
                inode, _, path = text[at + len(number) : text.find(b"\n", at)].partition(b" ")
                if not for_writing or (how[1:2] == b"w" and how[3:4] == b"s"):
                    found[device, int(inode)] = os.fsdecode(path.strip()).removesuffix(_DELETED)
                at = text.find(number, at + 1)
    return found


def held_by(pids: Iterable[int], devices: Collection[int]) -> set[Key]:
    """Return the files on these devices that the processes have open or mapped."""
    found = set(mapped_by(pids := list(pids), devices))
    for pid in pids:
        base = f"/proc/{pid}/fd/"
        try:
            names = os.listdir(base)
        except OSError:
            continue
        for name in names:
            try:
                if os.readlink(base + name)[:1] == "/":
                    facts = os.stat(base + name)
                    if facts.st_dev in devices:
                        found.add((facts.st_dev, facts.st_ino))
            except OSError:
                continue
    return found


def pids_to_ask(uid: int) -> list[int]:
    """Return the processes that may hold a file of this user and whose descriptors can be read."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if uid == 0 or os.stat(f"/proc/{name}").st_uid == uid:
                    found.append(int(name))
            except OSError:
                continue
    return found


def others_of(uid: int) -> list[int]:
    """Return the processes that may make files of this user, without this one and its ancestors."""
    parent_of = procfs.parents()
    pid, line = os.getpid(), set[int]()
    while pid and pid not in line:
        line.add(pid)
        pid = parent_of.get(pid, 0)
    return [pid for pid in pids_to_ask(uid) if pid not in line]


def key_of(path: str) -> Key | None:
    """Return device and inode of what is at the path, None if there is nothing."""
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
