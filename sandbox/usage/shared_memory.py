"""Shared memory that a run makes: it costs memory, and no process's RSS need show it.

Three kinds: files below /dev/shm, memfds, System V segments. None of them tells who made it, so:

* What existed before the run is never the run's; nor is what belongs to another user.
* What a process of the tree was seen to hold open or mapped, or made (System V keeps the pid), is the
  run's: it is *claimed*. Only such objects are removed afterwards, and only if nobody holds them then.
* What appeared during the run at the top of the folder, or beside something claimed, and is held by nobody
  outside the tree, is counted, not removed.

A look is cheap: the kernel's own sum of all shared memory (Shmem of /proc/meminfo) tells whether a scan is
worth while. Scans keep a distance of SCAN_SHARE times what they take.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from ..linux import procfs
from .usage import SharedObject

#: Of a core, at most, for scans of descriptors.
SCAN_SHARE = 0.01
#: A change of the machine's shared memory that is worth a scan.
WORTH_BYTES = 1 << 20
#: A scan without any sign, for what grew while something else shrank.
IDLE_SCAN_S = 2.0
#: Descriptors of one process looked at in one scan; the next scan goes on from there.
FDS_A_SCAN = 4096
#: Files looked at in one scan; a folder of others may hold any number.
FILES_A_SCAN = 1_000
#: What may be the run's, and is not proven to be, is told from this size on: any program on this machine that
#: has a pool of spawned processes leaves semaphores of 4 KiB for a moment when it ends.
WORTH_TELLING_BYTES = 64 << 10
#: Pids remembered as the run's, for System V segments.
PIDS_KEPT = 200_000

Key = tuple[int, int]  # device and inode


class SharedMemory:
    """The shared memory made by one run, from the construction of this object on."""

    def __init__(
        self,
        *,
        folders: Sequence[str] = ("/dev/shm",),
        perf: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._folders = [folder for folder in folders if os.path.isdir(folder)]
        self._perf = perf
        self._uid = os.getuid()
        self._devices = {os.stat(folder).st_dev for folder in self._folders}
        self._before: set[Key] = set()
        self._claimed: dict[Key, str] = {}
        self._before = {key for key, _, _ in self._entries(whole=True)}
        self._before_sysv = {one[0] for one in _sysv_segments()}
        self._pids: set[int] = set()
        self._foreign: set[Key] = set()
        self._known_files: dict[Key, tuple[str, int]] = {}
        self._memfds: dict[Key, tuple[str, int]] = {}
        self._sysv: dict[int, tuple[int, int]] = {}  # shmid -> creator, size
        self._total = 0
        self._next_scan_at = 0.0
        self._idle_scan_at = 0.0
        self._fd_offset: dict[int, int] = {}
        self._meminfo = _open_or_none("/proc/meminfo")
        self._shmem_at_scan = self._shmem()
        self._shmem_now = self._shmem_at_scan

    @property
    def total_bytes(self) -> int:
        """What the last scan found."""
        return self._total

    @property
    def at_most_bytes(self) -> int:
        """What it can have become since then, if all the growth on this machine were the run's."""
        return self._total + max(0, self._shmem_now - self._shmem_at_scan)

    def look(self, pids: Collection[int], now: float, *, must: bool = False) -> bool:
        """Scan if something has changed and it is time to; True when a scan was made.

        `must` scans as soon as there is any doubt: the caller is about to judge.
        """
        self._shmem_now = self._shmem()
        changed = abs(self._shmem_now - self._shmem_at_scan)
        if must and changed < WORTH_BYTES // 4:
            return False
        if not must and (now < self._next_scan_at or (changed < WORTH_BYTES and now < self._idle_scan_at)):
            return False
        self.scan(pids, now)
        return True

    def scan(self, pids: Collection[int], now: float) -> None:
        """Find all shared memory of the run."""
        began = self._perf()
        self._shmem_at_scan = self._shmem_now = self._shmem()
        if len(self._pids) > PIDS_KEPT:
            self._pids.clear()
        self._pids.update(pids)
        self._scan_descriptors(pids)
        self._scan_files(pids)
        self._scan_sysv()
        self._total = sum(size for _, size in self._known_files.values())
        self._total += sum(size for _, size in self._memfds.values())
        self._total += sum(size for _, size in self._sysv.values())
        took = self._perf() - began
        self._next_scan_at = now + max(0.02, took / SCAN_SHARE)
        self._idle_scan_at = now + max(IDLE_SCAN_S, took / SCAN_SHARE)

    def objects(self) -> list[SharedObject]:
        """Return what the last scan found, largest first."""
        found = [SharedObject("file", path, size) for path, size in self._known_files.values()]
        found += [SharedObject("memfd", name, size) for name, size in self._memfds.values()]
        found += [SharedObject("sysv", f"shmid {one}", size) for one, (_, size) in self._sysv.items()]
        return sorted(found, key=lambda one: -one.size_bytes)

    def remove_left_over(self) -> tuple[list[SharedObject], list[SharedObject]]:
        """Remove what the run left; return that, and what may be the run's too but is not proven to be.

        For after the last process of the tree is gone: then whoever still holds an object is somebody else.
        """
        self._scan_files(())
        self._scan_sysv()
        removed: list[SharedObject] = []
        kept: list[SharedObject] = []
        held = _held_by(self._same_user(()), self._devices) if self._known_files else set()
        for key, (path, size) in self._known_files.items():
            one = SharedObject("file", path, size)
            if key in held:
                continue
            is_ours = key in self._claimed or self._names_our_pid(path)
            if is_ours and _unlink_same(path, key):
                removed.append(one)
            elif (is_ours or size >= WORTH_TELLING_BYTES) and _is_same(path, key):
                kept.append(one)
        for shmid, (creator, size) in self._sysv.items():
            one = SharedObject("sysv", f"shmid {shmid}", size)
            (removed if creator in self._pids and _remove_sysv(shmid) else kept).append(one)
        self._known_files.clear()
        self._sysv.clear()
        self._remove_empty_folders(removed)
        return removed, kept

    def close(self) -> None:
        """Give back the descriptor."""
        if self._meminfo is not None:
            os.close(self._meminfo)
            self._meminfo = None

    # --- the scans ---

    def _shmem(self) -> int:
        if self._meminfo is None:
            return 0
        try:
            text = os.pread(self._meminfo, 2048, 0)
        except OSError:
            return 0
        start = text.find(b"\nShmem:")
        return int(text[start + 7 :].split(None, 1)[0]) * 1024 if start >= 0 else 0

    def _entries(self, *, whole: bool = False) -> Iterable[tuple[Key, str, int]]:
        """Yield what this user has at the top of the folders, and below new folders that hold a claimed file.

        `whole` asks for all at the top at once, folders too.
        """
        claimed_folders = {os.path.dirname(path) for path in self._claimed.values()}
        stack = list(self._folders)
        count = 0
        while stack and (whole or count < FILES_A_SCAN):
            try:
                entries = list(os.scandir(stack.pop()))
            except OSError:
                continue
            for entry in entries:
                count += 1
                try:
                    is_folder = entry.is_dir(follow_symlinks=False)
                    facts = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if facts.st_uid != self._uid or (key := (facts.st_dev, facts.st_ino)) in self._before:
                    continue
                if is_folder and not whole:
                    if any((one + "/").startswith(entry.path + "/") for one in claimed_folders):
                        stack.append(entry.path)
                else:
                    yield key, entry.path, facts.st_blocks * 512

    def _scan_files(self, pids: Collection[int]) -> None:
        mapped = _mapped_by(pids, self._devices)
        self._claimed.update((key, path) for key, path in mapped.items() if key not in self._before)
        found: dict[Key, tuple[str, int]] = {}
        doubtful: list[Key] = []
        for key, path, size in self._entries():
            found[key] = (path, size)
            if key not in self._claimed and key not in self._foreign:
                doubtful.append(key)
        for key, path in list(self._claimed.items()):  # in a folder that was there before
            if key not in found:
                try:
                    facts = os.lstat(path)
                except OSError:
                    facts = None
                if facts is None or (facts.st_dev, facts.st_ino) != key:
                    del self._claimed[key]
                else:
                    found[key] = (path, facts.st_blocks * 512)
        if pids and sum(found[key][1] for key in doubtful) >= WORTH_BYTES:
            held = _held_by(self._same_user(pids), self._devices)
            self._foreign.update(key for key in doubtful if key in held)
        for key in self._foreign:
            if key not in self._claimed:
                found.pop(key, None)
        self._known_files = found

    def _scan_descriptors(self, pids: Collection[int]) -> None:
        memfds: dict[Key, tuple[str, int]] = {}
        is_whole = True
        for pid in pids:
            base = f"/proc/{pid}/fd/"
            try:
                names = os.listdir(base)
            except OSError:
                continue
            if len(names) > FDS_A_SCAN:
                is_whole = False
                start = self._fd_offset.get(pid, 0) % len(names)
                self._fd_offset[pid] = start + FDS_A_SCAN
                names = (names[start:] + names[:start])[:FDS_A_SCAN]
            for name in names:
                try:
                    link = os.readlink(base + name)
                    if link[:7] == "/memfd:":
                        facts = os.stat(base + name)
                        title = link[7:].removesuffix(" (deleted)")
                        memfds[facts.st_dev, facts.st_ino] = (title, facts.st_blocks * 512)
                    elif any(link.startswith(folder) for folder in self._folders):
                        facts = os.stat(base + name)
                        key = (facts.st_dev, facts.st_ino)
                        if key in self._before:
                            continue
                        if facts.st_nlink == 0:  # unlinked and open: no scan of the folder can find it
                            memfds[key] = (link.removesuffix(" (deleted)"), facts.st_blocks * 512)
                        elif stat.S_ISREG(facts.st_mode):
                            self._claimed[key] = link
                except OSError:
                    continue
        self._memfds = memfds if is_whole else {**self._memfds, **memfds}

    def _scan_sysv(self) -> None:
        found = {}
        for shmid, creator, uid, size in _sysv_segments():
            if shmid in self._before_sysv or uid != self._uid:
                continue
            if creator in self._pids or not os.path.exists(f"/proc/{creator}"):
                found[shmid] = (creator, size)
        self._sysv = found

    def _same_user(self, except_for: Collection[int]) -> list[int]:
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) not in except_for:
                try:
                    if os.stat(f"/proc/{name}").st_uid == self._uid:
                        found.append(int(name))
                except OSError:
                    continue
        return found

    def _names_our_pid(self, path: str) -> bool:
        """joblib, loky and others write the pid of the maker into the name."""
        digits = "".join(c if c.isdigit() else " " for c in path).split()
        return any(int(one) in self._pids for one in digits if 2 < len(one) < 10)

    def _remove_empty_folders(self, removed: list[SharedObject]) -> None:
        for one in removed:
            folder = os.path.dirname(one.name) if one.kind == "file" else ""
            while folder and folder not in self._folders:
                try:
                    os.rmdir(folder)
                except OSError:
                    break
                folder = os.path.dirname(folder)


def _held_by(pids: Iterable[int], devices: Collection[int]) -> set[Key]:
    """Return the files on these devices that the processes have open or mapped."""
    found = set(_mapped_by(pids := list(pids), devices))
    for pid in pids:
        base = f"/proc/{pid}/fd/"
        try:
            names = os.listdir(base)[:FDS_A_SCAN]
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


def _mapped_by(pids: Iterable[int], devices: Collection[int]) -> dict[Key, str]:
    """Return the files on these devices that the processes have mapped, with their paths."""
    wanted = {f"{os.major(device):02x}:{os.minor(device):02x}".encode(): device for device in devices}
    found: dict[Key, str] = {}
    for pid in pids:
        try:
            text = procfs.read_all(f"/proc/{pid}/maps")
        except OSError:
            continue
        for number, device in wanted.items():
            at = text.find(b" " + number + b" ")
            while at >= 0:
                inode, _, path = text[at + len(number) + 2 : text.find(b"\n", at)].partition(b" ")
                if not path.endswith(b" (deleted)"):
                    found[device, int(inode)] = os.fsdecode(path.strip())
                at = text.find(b" " + number + b" ", at + 1)
    return found


def _sysv_segments() -> list[tuple[int, int, int, int]]:
    """Return shmid, pid of the creator, uid of the creator and occupied bytes of each segment."""
    try:
        lines = procfs.read_all("/proc/sysvipc/shm").splitlines()[1:]
    except OSError:
        return []
    found = []
    for line in lines:
        f = line.split()
        found.append((int(f[1]), int(f[4]), int(f[9]), int(f[14]) + int(f[15])))
    return found


def _unlink_same(path: str, key: Key) -> bool:
    if not _is_same(path, key):
        return False
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def _is_same(path: str, key: Key) -> bool:
    try:
        facts = os.lstat(path)
    except OSError:
        return False
    return (facts.st_dev, facts.st_ino) == key


def _remove_sysv(shmid: int) -> bool:
    import ctypes

    ipc_rmid = 0
    return bool(ctypes.CDLL(None).shmctl(shmid, ipc_rmid, None) == 0)


def _open_or_none(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
