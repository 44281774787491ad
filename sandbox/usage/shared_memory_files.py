"""The files and folders below /dev/shm that a run has made, told by proof from those of everybody else.

* A file is the run's when a look sees it open for writing, or mapped shared and writable, by a process of
  the tree, unless an earlier look saw it held by nobody in the tree: then somebody else has made it.
* A folder is the run's, with everything in it, when a process of the run has reported that it made it. Or it
  was made during the run, the tree writes a file in it so soon after that nobody else can have come to know
  of it, and nobody else holds a file in it.
* What existed before the run is never the run's, nor is what belongs to another user.

The kernel says at once when a name appears (name_watch.py), so that a look finds the file still open. Names
are never proof.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from ..linux import kernel
from ..linux.name_watch import NameWatch
from . import shared_memory_holders as holders
from .shared_memory_holders import Key

#: Entries looked at in one scan; a folder of others may hold any number.
ENTRIES_A_SCAN = 20_000
#: Folders watched for new names.
WATCHES = 64
#: A folder at most this old is known to its maker alone.
FRESH_S = 0.1
#: What may be the run's, and is not proven to be, is told from this size on: any program on this machine that
#: has a pool of spawned processes leaves semaphores of 4 KiB for a moment when it ends.
WORTH_TELLING_BYTES = 64 << 10
#: Files remembered as the run's or not the run's.
KEYS_KEPT = 200_000
#: A pipe's capacity.
PIPE_BYTES = 1 << 16


class File(NamedTuple):
    """A file as a scan found it."""

    path: str
    size: int  #: occupied bytes


class _ShmEntry(NamedTuple):
    """What appeared at the top of a folder during the run."""

    key: Key
    path: str
    is_folder: bool
    files: dict[Key, File]  #: the file itself, or those in the folder


class ShmFiles:
    """What one run has made below the folders, from the construction of this object on."""

    def __init__(
        self,
        folders: Collection[str],
        *,
        made_folders: int = -1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`made_folders`: the pipe in which processes of the run report the folders they make; -1: none."""
        self._folders = list(folders)
        self._made_folders = made_folders
        self._clock = clock  # the one that the kernel dates births by
        self._uid = os.getuid()
        self.devices = {os.stat(folder).st_dev for folder in self._folders}
        self._name_watch: NameWatch | None = None  #: None: none to be had
        self._watched: set[str] = set()
        with contextlib.suppress(OSError):
            self._name_watch = NameWatch()
        #: Old folders with more in them than is read at the start: nothing in them is ever the run's.
        self._closed: set[str] = set()
        self._before = self._read_all()
        #: By key: files proven to be the run's, with the last path known.
        self._claimed: dict[Key, str] = {}
        self._made: dict[Key, str] = {}  # folders of the run; "" while the path is not known
        self._others: set[Key] = set()  # files and folders that somebody else has made, or nobody knows who
        #: Folders without any file that appeared during the run: nothing in them can prove whose they are.
        self._empty: dict[Key, str] = {}
        #: The run's files, as of the last scan.
        self.found: dict[Key, File] = {}

    @property
    def has_unproven(self) -> bool:
        """Whether anything appeared that no look saw in the hands of the tree."""
        return bool(self._others) or any(
            key not in self._made and _key(path) == key for key, path in self._empty.items()
        )

    @property
    def new_file_fd(self) -> int:
        """A descriptor that is readable when a name has appeared; -1: there is none."""
        return self._name_watch.fd if self._name_watch is not None else -1

    def poll_new_files(self) -> bool:
        """Whether a name has appeared since this was asked before."""
        self._read_folder_reports()
        return self._name_watch is not None and self._name_watch.has_news()

    def _read_folder_reports(self) -> None:
        """Take what the tree reports of the folders that it has made. Whatever the pipe holds is no error."""
        if self._made_folders < 0:
            return
        try:
            reports = os.read(self._made_folders, PIPE_BYTES).split(b"\0")[:-1]
        except BlockingIOError:
            return
        for report in reports:
            device, _, rest = report.partition(b" ")
            inode, _, path = rest.partition(b" ")
            if device.isdigit() and inode.isdigit() and len(self._made) < KEYS_KEPT:
                key = (int(device), int(inode))
                if key not in self._before:
                    self._made[key] = os.fsdecode(path)

    def scan(self, written: Callable[[], dict[Key, str]], pids: Collection[int]) -> None:
        """Find all files of the run. `written` reads what the processes have open for writing."""
        held = written()  # at once: a file may be open for a moment only
        self._read_folder_reports()
        # First what there is, then who holds it: what is made in between waits for the next scan.
        top = list(self._new_entries())
        held.update(written())
        held.update(holders.mapped_by(pids, self.devices, for_writing=True))
        for key, path in held.items():
            if key not in self._before and key not in self._others and not self._is_closed(path):
                self._claimed[key] = path
        found: dict[Key, File] = {}
        self._empty = {}
        for entry in top:
            if entry.key in self._made or self._is_made_by_the_run(entry, pids):
                self._made[entry.key] = entry.path
                found.update(_files_below(entry.path))
                continue
            if entry.is_folder and not entry.files:
                self._empty[entry.key] = entry.path
            for key, file in entry.files.items():
                if key in self._claimed:
                    found[key] = file
                    self._claimed[key] = file.path  # it may have been renamed
                elif len(self._others) < KEYS_KEPT:
                    self._others.add(key)
        tops = {entry.key for entry in top}
        for key, path in self._made.items():
            if key not in tops and path and _key(path) == key:  # in a folder that was there before
                found.update(_files_below(path))
        for key, path in list(self._claimed.items()):
            if key not in found:
                if _key(path) == key:  # made since the list was read, or in a folder that was there before
                    found[key] = File(path, os.lstat(path).st_blocks * 512)
                elif key not in held:
                    del self._claimed[key]
        self.found = found

    def remove(self) -> tuple[list[File], list[File]]:
        """Remove what the run left; return that, and what may be the run's too but is not proven to be.

        For after the last process of the tree is gone: whoever still holds a file is somebody else.
        """
        self.scan(dict, ())
        doubtful = []
        for entry in self._new_entries(others=True):
            size = sum(file.size for key, file in entry.files.items() if key not in self.found)
            if size >= WORTH_TELLING_BYTES:
                doubtful.append((entry, size))
        if not self.found and not doubtful and not self._made:
            return [], []
        held = holders.held_by(holders.pids_to_ask(self._uid), self.devices)
        removed: list[File] = []
        kept = [File(entry.path, size) for entry, size in doubtful if held.isdisjoint(entry.files)]
        for key, file in self.found.items():
            if key not in held:
                (removed if _unlink_same(file.path, key) else kept).append(file)
        for key, path in self._made.items():
            if path and _key(path) == key:
                _remove_empty_folders(path)
                if _key(path) is None and not any(file.path.startswith(f"{path}/") for file in removed):
                    removed.append(File(f"{path}/", 0))
        self.found = {}
        return removed, kept

    def close(self) -> None:
        """Give back the descriptors."""
        if self._name_watch is not None:
            self._name_watch.close()
            self._name_watch = None
        if self._made_folders >= 0:
            os.close(self._made_folders)
            self._made_folders = -1

    def _watch(self, folder: str) -> None:
        if self._name_watch is not None and folder not in self._watched and len(self._watched) < WATCHES:
            self._watched.add(folder)
            with contextlib.suppress(OSError):  # gone already, or cannot be watched: the regular scans see it
                self._name_watch.add(folder)

    def _read_all(self) -> set[Key]:
        """Return everything that is there, and note the folders that hold too much to be read."""
        found: set[Key] = set()
        waiting = list(self._folders)
        while waiting:
            folder = waiting.pop(0)
            self._watch(folder)  # first, so that nothing is missed
            if len(found) > ENTRIES_A_SCAN and folder not in self._folders:
                self._closed.add(folder)
                continue
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        try:
                            facts = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        found.add((facts.st_dev, facts.st_ino))
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
            except FileNotFoundError:
                continue
            except OSError:
                self._closed.add(folder)
        return found

    def _is_closed(self, path: str) -> bool:
        return any(path.startswith(folder + "/") for folder in self._closed)

    def _new_entries(self, *, others: bool = False) -> Iterator[_ShmEntry]:
        """Yield what this user has made at the top since the start; `others`: also what is not the run's."""
        count = 0
        for folder in self._folders:
            try:
                device = os.stat(folder).st_dev
                entries = os.scandir(folder)
            except OSError:
                continue
            with entries:
                for entry in entries:
                    key = (device, entry.inode())
                    if key in self._before or (key in self._others and not others):
                        continue
                    count += 1
                    if count > ENTRIES_A_SCAN:
                        return
                    try:
                        facts = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    if facts.st_uid != self._uid or (facts.st_dev, facts.st_ino) != key:
                        continue
                    if stat.S_ISDIR(facts.st_mode):
                        self._watch(entry.path)
                        yield _ShmEntry(key, entry.path, True, _files_below(entry.path))
                    else:
                        file = File(entry.path, facts.st_blocks * 512)
                        yield _ShmEntry(key, entry.path, False, {key: file})

    def _is_made_by_the_run(self, entry: _ShmEntry, pids: Collection[int]) -> bool:
        """Whether a folder is proven to be the run's."""
        if not entry.is_folder:
            return False
        ours = sum(key in self._claimed for key in entry.files)
        if not ours:
            return False
        born = kernel.birth_s(entry.path)
        if born is None:  # a kernel that does not tell
            return ours == len(entry.files)
        if not 0 <= self._clock() - born < FRESH_S:
            return False
        strangers = [pid for pid in holders.pids_to_ask(self._uid) if pid not in pids]
        return holders.held_by(strangers, self.devices).isdisjoint(entry.files)


def _files_below(folder: str) -> dict[Key, File]:
    """Return the files in this folder, however deep."""
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


def _remove_empty_folders(top: str) -> None:
    """Remove the folder and those in it, as far as they are empty."""
    for folder, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _key(path: str) -> Key | None:
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _unlink_same(path: str, key: Key) -> bool:
    if _key(path) != key:
        return False
    try:
        os.unlink(path)
    except OSError:
        return False
    return True
