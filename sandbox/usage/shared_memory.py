"""Shared memory made by a run, which uses memory that may appear in no process's RSS.

Three kinds: files below /dev/shm (shared_memory_files.py), memfds, System V segments. The kernel does not
tell which process made a file, so only objects proven to be the run's count towards a limit and are removed
when the run is over.

Most looks need no scan: the kernel's sum of all shared memory (Shmem in /proc/meminfo) and name_watch.py show
whether anything has changed. Scans take SCAN_SHARE of a core, and after a quiet time BURST_S without a pause:
a file that is made and closed again within milliseconds has to be seen while it is open.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Sequence

from ..linux import procfs
from .found_files import QUICK, WHOLE
from .shared_memory_files import ShmFiles
from .shared_memory_holders import Descriptors, Key
from .usage import SharedObject

#: Largest share of a core for scans.
SCAN_SHARE = 0.01
#: Time for scans without a pause, after a quiet time.
BURST_S = 0.1
#: Change of the machine's shared memory that triggers a scan.
WORTH_BYTES = 1 << 20
#: Interval of scans without such a change, for one object that grew while another shrank.
IDLE_SCAN_S = 2.0
#: Most pids of the run that are remembered, for System V segments.
PIDS_KEPT = 200_000


class SharedMemory:
    """Finds the shared memory made by one run since the construction of this object."""

    def __init__(
        self,
        *,
        folders: Sequence[str] = ("/dev/shm",),
        reports: int = -1,
        perf: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`reports`: the pipe in which processes of the run report what they make; -1: none."""
        there = [folder for folder in folders if os.path.isdir(folder)]
        self._perf = perf
        self._uid = os.getuid()
        self._files = ShmFiles(there, reports=reports)
        self._descriptors = Descriptors(there)
        self._nameless: dict[Key, tuple[str, int]] = {}
        self._before_sysv = {one[0] for one in _sysv_segments()}
        self._pids: set[int] = set()
        self._sysv: dict[int, int] = {}  # size by shmid
        self._total = 0
        self._has_new_files = False  # a file has appeared since the last scan
        self._next_scan_at = 0.0
        self._idle_scan_at = 0.0
        self._meminfo = _open_or_none("/proc/meminfo")
        self._shmem_at_scan = self._shmem()
        self._shmem_now = self._shmem_at_scan

    @property
    def total_bytes(self) -> int:
        """Size of all objects that the last scan found."""
        return self._total

    @property
    def is_used(self) -> bool:
        """Whether the last scan found any beside hkrunner's own memory files, which are named so."""
        own = sum(size for name, size in self._nameless.values() if name.startswith("hkrunner"))
        return self._total > own

    @property
    def at_most_bytes(self) -> int:
        """Upper bound of the size now: all growth on this machine since the last whole scan is the run's."""
        return self._total + max(0, self._shmem_now - self._shmem_at_scan)

    @property
    def freed_bytes(self) -> int:
        """Upper bound of what was freed of it since the last whole scan."""
        return min(self._total, max(0, self._shmem_at_scan - self._shmem_now))

    @property
    def has_unproven(self) -> bool:
        """Whether files have appeared that may be the run's, without proof."""
        return self._files.has_unproven

    def new_file_fd(self, now: float) -> int:
        """Return a descriptor that is readable when a file has appeared; -1: none, or a pause."""
        return self._files.new_file_fd if now >= self._next_scan_at else -1

    def wait_again_at(self, now: float) -> float:
        """Return when the pause of scans ends; infinity: there is no pause."""
        return self._next_scan_at if self._files.new_file_fd >= 0 and now < self._next_scan_at else math.inf

    def poll_new_files(self) -> bool:
        """Return whether a file has appeared since the last scan."""
        if self._files.poll_new_files():
            self._has_new_files = True
        return self._has_new_files

    def scan_if_changed(self, pids: Collection[int], now: float, *, must: bool = False) -> bool:
        """Scan if something has changed and no pause is due; return whether a scan was made.

        `must`: scan in a pause too, and after a smaller change, and leave nothing out: the caller decides on
        the result.
        """
        self._remember(pids)
        self._shmem_now = self._shmem()
        changed = abs(self._shmem_now - self._shmem_at_scan)
        is_new = self.poll_new_files()
        if must and self._files.is_whole and not is_new and changed < WORTH_BYTES // 4:
            return False
        if not must:
            is_quiet = not is_new and changed < WORTH_BYTES and now < self._idle_scan_at
            if now < self._next_scan_at or is_quiet:
                return False
        self.scan(pids, now, whole=must)
        return True

    def scan(self, pids: Collection[int], now: float, *, whole: bool = False) -> None:
        """Find the shared memory of the run; `whole`: also what no time is for in each scan."""
        began = self._perf()
        self.poll_new_files()
        self._has_new_files = False
        self._shmem_now = self._shmem()
        self._remember(pids)
        self._files.scan(lambda: self._written(pids), pids, bounds=WHOLE if whole else QUICK)
        if self._files.is_whole:  # else what was left out may have grown, or be gone
            self._shmem_at_scan = self._shmem_now
        self._scan_sysv(pids)
        self._total = sum(one.size for one in self._files.found.values())
        self._total += sum(size for _, size in self._nameless.values())
        self._total += sum(self._sysv.values())
        took = self._perf() - began
        # The share of a core that was not used in a quiet time may be used at once.
        self._next_scan_at = max(self._next_scan_at, now - BURST_S / SCAN_SHARE) + took / SCAN_SHARE
        self._idle_scan_at = now + max(IDLE_SCAN_S, took / SCAN_SHARE)

    def objects(self) -> list[SharedObject]:
        """Return the objects that the last scan found, but for empty ones, largest first."""
        found = [SharedObject("file", one.path, one.size) for one in self._files.found.values()]
        found += [SharedObject("memfd", name, size) for name, size in self._nameless.values()]
        found += [SharedObject("sysv", f"shmid {one}", size) for one, size in self._sysv.items()]
        return sorted((one for one in found if one.size_bytes), key=_by_size)

    def remove_left_over(self) -> tuple[list[SharedObject], list[SharedObject]]:
        """Remove what the run has left; return what was removed, and what may be the run's without proof.

        Called after the last process of the tree has ended: a process that holds an object is a stranger.
        """
        files, doubtful = self._files.remove()
        removed = [SharedObject("file", *one) for one in files]
        kept = [SharedObject("file", *one) for one in doubtful]
        self._scan_sysv(())
        for shmid, size in self._sysv.items():
            one = SharedObject("sysv", f"shmid {shmid}", size)
            (removed if _remove_sysv(shmid) else kept).append(one)
        self._sysv.clear()
        return sorted(removed, key=_by_size), sorted(kept, key=_by_size)

    def close(self) -> None:
        """Close all descriptors."""
        self._files.close()
        if self._meminfo is not None:
            os.close(self._meminfo)
            self._meminfo = None

    # --- the scans ---

    def _remember(self, pids: Collection[int]) -> None:
        if len(self._pids) > PIDS_KEPT:
            self._pids.clear()
        self._pids.update(pids)

    def _shmem(self) -> int:
        if self._meminfo is None:
            return 0
        try:
            text = os.pread(self._meminfo, 2048, 0)
        except OSError:
            return 0
        start = text.find(b"\nShmem:")
        return int(text[start + 7 :].split(None, 1)[0]) * 1024 if start >= 0 else 0

    def _written(self, pids: Collection[int]) -> dict[tuple[int, Key], str]:
        self._descriptors.read(pids)
        self._nameless = self._descriptors.nameless
        return self._descriptors.written

    def _scan_sysv(self, pids: Collection[int]) -> None:
        """Find the segments whose creator, as the kernel names it, is or was a process of the tree."""
        found = {}
        for shmid, creator, uid, size in _sysv_segments():
            if shmid in self._before_sysv or uid != self._uid or creator not in self._pids:
                continue
            # A pid in use that is no longer in the tree was reused for another program's process.
            if shmid in self._sysv or creator in pids or not os.path.exists(f"/proc/{creator}"):
                found[shmid] = size
        self._sysv = found


def _by_size(one: SharedObject) -> int:
    return -one.size_bytes


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


def _remove_sysv(shmid: int) -> bool:
    import ctypes

    ipc_rmid = 0
    return bool(ctypes.CDLL(None).shmctl(shmid, ipc_rmid, None) == 0)


def _open_or_none(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
