"""The files and folders below /dev/shm that a run has made, each by proof.

* A file is the run's when a scan finds it open for writing, or mapped shared and writable, in a process of
  the tree that has not reported that it was there before; unless an earlier scan found it held by no such
  process: then another program (a *stranger*) has made it.
* Anything is the run's when a process of the run has reported that it made it: a folder, with everything in
  it, a pipe or a link by device and inode, a file by its path just before it was made.
* A folder is also the run's if it was made during the run, the tree writes a file in it so soon afterwards
  that no stranger can know the folder, and no stranger holds a file in it.
* What existed before the run is never the run's, nor is what belongs to another user.

The kernel reports a new file at once (name_watch.py): a scan finds it open. A file's name is never a proof.
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
from ..linux.walk_tree import walk_tree
from . import shared_memory_holders as holders
from .found_files import AT_THE_END, QUICK, Bounds, File, FolderWalk, file_at, has_several_names, unlink_same
from .shared_memory_holders import Key, key_of
from .temporary_folders import TemporaryFolders

#: Most folders watched for new files.
WATCHES = 64
#: Age up to which a folder is known to its maker alone.
FRESH_S = 0.1
#: How long a file may take to be made after its report, on a busy machine.
ANNOUNCED_S = 1.0
#: Least size of an object reported as possibly the run's: any program on this machine with a pool of spawned
#: processes leaves semaphores of 4 KiB for a moment when it ends.
WORTH_TELLING_BYTES = 64 << 10
#: Most files remembered as the run's, and as strangers'.
KEYS_KEPT = 200_000
#: Most that the run has reported and that is not there: the report of a rename comes before the rename.
GONE_KEPT = 1000
#: Most files that were announced and are not there: each is looked for whenever something may have changed.
AWAITED_KEPT = 1000
#: A pipe's capacity.
PIPE_BYTES = 1 << 16


class _ShmEntry(NamedTuple):
    """A file or folder that appeared at the top of a watched folder during the run."""

    key: Key
    path: str
    is_folder: bool
    is_file: bool  #: a regular one, which alone uses memory
    files: dict[Key, File]  #: the entry itself, or the files in the folder


class ShmFiles:
    """Finds what one run has made below the folders since the construction of this object."""

    def __init__(
        self,
        folders: Collection[str],
        *,
        reports: int = -1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`reports`: the pipe in which processes of the run report what they make; -1: none."""
        self._folders = [os.path.realpath(one) for one in folders]
        self._reports = reports
        #: Whether reports count. Those of an isolated tree, which has another /dev/shm than this process,
        #: could name anybody's files; all that it makes in its own is removed anyway.
        self._takes_reports = len(self._folders) == 1
        self._clock = clock  # the one by which the kernel dates a file's birth
        self._uid = os.getuid()
        self.devices = {os.stat(folder).st_dev for folder in self._folders}
        self._name_watch: NameWatch | None = None  #: None: not available here
        self._watched: set[str] = set()
        with contextlib.suppress(OSError):
            self._name_watch = NameWatch()
        #: Folders too large to be read at the start: nothing in them ever counts as the run's.
        self._closed: set[str] = set()
        self._before = self._read_all()
        #: Last known paths of the files proven to be the run's, by key.
        self._claimed: dict[Key, str] = {}
        self._made: dict[Key, str] = {}  # what the run has reported; "" while the path is not known
        self._temporary = TemporaryFolders()
        self._announced: dict[str, float] = {}  # when the path of a file was reported that is not there yet
        self._opened: set[tuple[int, Key]] = set()  # by which process, and that it was there before
        self._others: set[Key] = set()  # files and folders that strangers have made, or may have made
        #: Folders without a file, pipes and links that are new: nothing in them proves who made them.
        self._empty: dict[Key, str] = {}
        #: The run's files, as of the last scan.
        self.found: dict[Key, File] = {}
        #: Whether the last scan has left out nothing that a deciding one looks at.
        self.is_whole = True

    @property
    def has_unproven(self) -> bool:
        """Whether anything has appeared that may be the run's, without proof."""
        return bool(self._others) or any(
            key not in self._made and key_of(path) == key for key, path in self._empty.items()
        )

    @property
    def new_file_fd(self) -> int:
        """Descriptor that is readable when a file has appeared; -1: there is none."""
        return self._name_watch.fd if self._name_watch is not None else -1

    def poll_new_files(self) -> bool:
        """Return whether a file has appeared since the last call."""
        self._read_reports()
        return self._name_watch is not None and self._name_watch.has_news()

    def _read_reports(self) -> None:
        """Read the tree's reports of what it has made; anything else in the pipe is ignored."""
        if self._reports < 0:
            return
        reports: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            reports = os.read(self._reports, PIPE_BYTES).split(b"\0")[:-1]
        if not self._takes_reports:
            return
        now = self._clock()
        for report in reports:
            device, _, rest = report.partition(b" ")
            inode, _, path = rest.partition(b" ")
            pid, _, opened = device.partition(b"=")
            if _are_numbers(pid, opened, inode) and len(self._opened) < KEYS_KEPT:
                self._opened.add((int(pid), (int(opened), int(inode))))
            elif _are_numbers(device, inode):
                self._made_by_the_run((int(device), int(inode)), os.fsdecode(path))
            elif device == inode == b"-":
                self._announced[os.fsdecode(path)] = now
        for announced, since in list(self._announced.items()):
            key = key_of(announced)
            if key is not None:
                self._made_by_the_run(key, announced)
            if key is not None or now - since > ANNOUNCED_S or len(self._announced) > AWAITED_KEPT:
                del self._announced[announced]

    def _made_by_the_run(self, key: Key, path: str) -> None:
        if key[0] not in self.devices:
            self._temporary.note(key, path)
        is_new = key[0] in self.devices and key not in self._before and key not in self._others
        if is_new and len(self._made) < KEYS_KEPT:
            self._made[key] = path

    def scan(
        self,
        written: Callable[[], dict[tuple[int, Key], str]],
        pids: Collection[int],
        *,
        bounds: Bounds = QUICK,
    ) -> None:
        """Find all files of the run. `written` returns the files that its processes have open for writing.

        What lies beyond the bounds counts as it did in the scan before.
        """
        walk = FolderWalk(bounds.entries)
        by_process = written()  # first: a file may be open for a moment only
        # First the files, then their holders: a file made in between is left to the next scan.
        top = list(self._new_entries(walk))
        by_process.update(written())
        for pid in pids:
            mapped = holders.mapped_by([pid], self.devices, for_writing=True).items()
            by_process.update({(pid, key): path for key, path in mapped})
        self._read_reports()  # last: what a process holds, it has reported before
        held = {one[1]: path for one, path in by_process.items() if one not in self._opened}
        for key, path in held.items():
            if key not in self._before and key not in self._others and not self._is_closed(path):
                self._claimed[key] = path
        found: dict[Key, File] = {}
        self._empty = {}
        for entry in top:
            if entry.key in self._made or self._is_made_by_the_run(entry, pids):
                self._made[entry.key] = entry.path
                found.update(entry.files)
                continue
            if not entry.is_file and (not entry.is_folder or not entry.files):
                self._empty[entry.key] = entry.path  # a report may follow
                continue
            for key, file in entry.files.items():
                if key in self._claimed:
                    found[key] = file
                    self._claimed[key] = file.path  # it may have been renamed
                elif len(self._others) < KEYS_KEPT:
                    self._others.add(key)
        reported = FolderWalk(walk.left)
        is_looked_at = self._look_at_reported(found, top, reported, bounds.reported)
        for key, path in list(self._claimed.items()):
            if key not in found:
                # Made since the list was read, or in an older folder.
                if key_of(path) == key and (same := file_at(path)) is not None:
                    found[key] = same
                elif key not in held:
                    del self._claimed[key]
        if not is_looked_at or reported.is_over:
            unseen = [one for one in self.found.items() if one[0] not in found]
            found.update(unseen[bounds.reported :])
            found.update(one for one in unseen[: bounds.reported] if key_of(one[1].path) == one[0])
        self.found = found
        self.is_whole = bounds.is_whole or (is_looked_at and not reported.is_over)

    def _look_at_reported(
        self, found: dict[Key, File], top: list[_ShmEntry], walk: FolderWalk, most: int
    ) -> bool:
        """Add what was made in older folders, and forget what is long gone; return whether that is all."""
        gone = []
        tops = {entry.key for entry in top}
        read = {entry.path for entry in top if entry.is_folder and entry.key in self._made}
        inside: dict[str, bool] = {}  # the folders that were looked at
        others = [(key, path) for key, path in self._made.items() if key not in tops and key not in found]
        for key, path in others[:most]:
            del self._made[key]
            self._made[key] = path  # at the end: the next scan looks at others first
            folder = os.path.dirname(path)
            if folder not in inside:
                inside[folder] = self._is_inside(folder)
            facts = None
            with contextlib.suppress(OSError):
                facts = os.lstat(path)
            if facts is None or (facts.st_dev, facts.st_ino) != key or not inside[folder]:
                gone.append(key)
                self.found.pop(key, None)
            elif not stat.S_ISDIR(facts.st_mode):
                found[key] = File(path, facts.st_blocks * 512)
            elif self._top_of(path) not in read:  # or its files are among those of the folder that it is in
                found.update(walk.files_below(path))
        if len(gone) > GONE_KEPT:
            for key in gone:
                del self._made[key]
        return len(others) <= most

    def remove(self) -> tuple[list[File], list[File]]:
        """Remove what the run has left; return what was removed, and what may be the run's without proof.

        Called after the last process of the tree has ended: a process that holds a file is a stranger. Where
        this user has other processes than hkrunner's, any of them may have made what has no proof.
        """
        self.scan(dict, (), bounds=AT_THE_END)
        self._temporary.remove()
        doubtful = []
        for entry in self._new_entries(FolderWalk(AT_THE_END.entries), others=True):
            size = sum(file.size for key, file in entry.files.items() if key not in self.found)
            if size >= WORTH_TELLING_BYTES:
                doubtful.append((entry, size))
        if doubtful and holders.others_of(self._uid):
            doubtful = []
        if not self.found and not doubtful and not self._made:
            return [], []
        held = holders.held_by(holders.pids_to_ask(self._uid), self.devices)
        removed: list[File] = []
        kept = [File(entry.path, size) for entry, size in doubtful if held.isdisjoint(entry.files)]
        names = self._names_of_linked_files()
        for key, file in self.found.items():
            if key not in held:
                (removed if unlink_same(file.path, key) else kept).append(file)
                removed += [other for other in names.get(key, ()) if unlink_same(other.path, key)]
        for key, path in self._made.items():
            if self._is_at(path, key) and os.path.isdir(path):
                for folder in reversed([place for place, _, _ in walk_tree(path)]):
                    with contextlib.suppress(OSError):  # it is not empty
                        os.rmdir(folder)
                if key_of(path) is None and not any(file.path.startswith(f"{path}/") for file in removed):
                    removed.append(File(f"{path}/", 0))
        self.found = {}
        return removed, kept

    def _is_at(self, path: str, key: Key) -> bool:
        """Whether this is at the path, and in one of the folders: a report may name what is anybody's."""
        return key_of(path) == key and self._is_inside(os.path.dirname(path))

    def _is_inside(self, folder: str) -> bool:
        return f"{os.path.realpath(folder)}/".startswith(tuple(f"{one}/" for one in self._folders))

    def _top_of(self, path: str) -> str:
        """Return the file or folder at the top of a watched folder that this is, or lies in."""
        for one in self._folders:
            if path.startswith(f"{one}/"):
                return f"{one}/{path[len(one) + 1 :].partition('/')[0]}"
        return path

    def _names_of_linked_files(self) -> dict[Key, list[File]]:
        """Return all names of the run's files that have several: a file uses memory as long as it has one."""
        names: dict[Key, list[File]] = {
            key: [] for key, file in self.found.items() if has_several_names(file.path)
        }
        folders = [*self._folders] if names else []
        while folders:
            with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif (key := key_of(entry.path)) in names:
                        names[key].append(File(entry.path, 0))
        return names

    def close(self) -> None:
        """Close all descriptors."""
        if self._name_watch is not None:
            self._name_watch.close()
        if self._reports >= 0:
            os.close(self._reports)
        self._name_watch, self._reports = None, -1

    def _watch(self, folder: str) -> None:
        if self._name_watch is not None and folder not in self._watched and len(self._watched) < WATCHES:
            self._watched.add(folder)
            with contextlib.suppress(OSError):  # gone already, or cannot be watched: regular scans read it
                self._name_watch.add(folder)

    def _read_all(self) -> set[Key]:
        """Return all files and folders, and note those folders that are too large to be read."""
        found: set[Key] = set()
        waiting = list(self._folders)
        while waiting:
            folder = waiting.pop(0)
            self._watch(folder)  # first, so that no file is missed
            if len(found) > QUICK.entries and folder not in self._folders:
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

    def _new_entries(self, walk: FolderWalk, *, others: bool = False) -> Iterator[_ShmEntry]:
        """Yield what this user has made at the top since the start; `others`: strangers' files too."""
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
                    if not walk.take():
                        return
                    try:
                        facts = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    if facts.st_uid != self._uid or (facts.st_dev, facts.st_ino) != key:
                        continue
                    if stat.S_ISDIR(facts.st_mode):
                        self._watch(entry.path)
                        yield _ShmEntry(key, entry.path, True, False, walk.files_below(entry.path))
                    else:
                        file = File(entry.path, facts.st_blocks * 512)
                        yield _ShmEntry(key, entry.path, False, stat.S_ISREG(facts.st_mode), {key: file})

    def _is_made_by_the_run(self, entry: _ShmEntry, pids: Collection[int]) -> bool:
        """Whether a folder is proven to be the run's."""
        if not entry.is_folder:
            return False
        ours = sum(key in self._claimed for key in entry.files)
        if not ours:
            return False
        born = kernel.birth_s(entry.path)
        if born is None:  # the kernel or the file system does not say
            return ours == len(entry.files)
        if not 0 <= self._clock() - born < FRESH_S:
            return False
        strangers = [pid for pid in holders.pids_to_ask(self._uid) if pid not in pids]
        return holders.held_by(strangers, self.devices).isdisjoint(entry.files)


def _are_numbers(*words: bytes) -> bool:
    """Whether each word is a number of at most 64 bits: int() raises an error for thousands of digits."""
    return all(word.isdigit() and len(word) <= 20 for word in words)
