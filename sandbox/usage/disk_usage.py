"""The bytes that a run has written: the growth of its folders, measured in small steps."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator

#: Entries read in one step, so that a folder of a million files does not delay the warden.
STEP_ENTRIES = 500
#: Shortest interval between passes over all folders, largest share of a core for them, and longest pause
#: between two steps.
EVERY_S = 0.05
SHARE = 0.005
LATEST_S = 5.0
#: Interval between readings of the free space. If it has fallen by HURRY_AT of the limit since the last whole
#: pass began, steps take HURRIED_SHARE of a core: otherwise a pass over 10,000 files takes 10 s.
CHECK_S = 0.1
HURRY_AT = 0.25
HURRIED_SHARE = 0.2


class DiskMeter:
    """Measures the growth of the bytes on disk below some folders.

    Other file systems mounted inside are left out, and symbolic links are not followed; a file with several
    names counts once.
    """

    def __init__(
        self,
        folders: list[str],
        *,
        limit_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is read yet; what the first whole pass finds is the size from which growth is counted.

        `limit_bytes`: steps come faster once a large part of this limit may have been written.
        """
        kept: list[str] = []
        for folder in sorted({os.path.realpath(one) for one in folders}):
            if not any(folder == one or folder.startswith(one.rstrip("/") + "/") for one in kept):
                kept.append(folder)
        self._folders = kept
        self._clock = clock
        self._before: int | None = None
        self._now = 0
        self._pass: Generator[int, None, None] | None = None
        self._total = 0
        self._limit_bytes = limit_bytes
        self._free_begun = self._free_known = 0  #: free space when this pass, and the last whole one, began
        self._step_at = 0.0
        self.next_at = 0.0

    def measure_before(self) -> None:
        """Make the whole first pass now, before the run begins."""
        self._free_begun = self._free_known = self._free_bytes()
        for size in self._walk():
            self._total += size
        self._before = self._now = self._total

    @property
    def growth_bytes(self) -> int:
        """Growth since the first pass, as of the last whole pass, or of the present one if that is more."""
        if self._before is None:
            return 0
        return max(0, max(self._now, self._total) - self._before)

    def look(self, now: float) -> None:
        """Make one step, if it is due."""
        if now < self.next_at:
            return
        hurried = False
        if self._limit_bytes is not None:
            hurried = self._free_known - self._free_bytes() > HURRY_AT * self._limit_bytes
            if now < self._step_at and not hurried:
                self.next_at = min(self._step_at, now + CHECK_S)
                return
        began = self._clock()
        if self._pass is None:
            self._pass, self._total = self._walk(), 0
            self._free_begun = self._free_bytes()
        for _ in range(STEP_ENTRIES):
            size = next(self._pass, None)
            if size is None:
                self._pass, self._now = None, self._total
                self._free_known = self._free_begun
                break
            self._total += size
        took = self._clock() - began
        # The earlier steps of a pass have been followed by their own pauses: count the last step only.
        pause = took / (HURRIED_SHARE if hurried else SHARE)
        if self._pass is None:
            pause = max(EVERY_S, pause)
        self._step_at = now + min(pause, LATEST_S)
        self.next_at = self._step_at if self._limit_bytes is None else min(self._step_at, now + CHECK_S)

    def _free_bytes(self) -> int:
        total = 0
        for folder in self._folders:
            with contextlib.suppress(OSError):
                found = os.statvfs(folder)
                total += found.f_bfree * found.f_frsize
        return total

    def close(self) -> None:
        """Close the folder that an unfinished pass holds open."""
        if self._pass is not None:
            self._pass.close()
            self._pass = None

    def _walk(self) -> Generator[int, None, None]:
        """Yield the bytes that each entry occupies on disk."""
        seen: set[tuple[int, int]] = set()  # device and inode of files with several names
        for folder in self._folders:
            try:
                device = os.stat(folder).st_dev
            except OSError:
                continue
            stack = [folder]
            while stack:
                # A folder on a network may fail while it is read: the rest of it is left to the next pass.
                with contextlib.suppress(OSError), os.scandir(stack.pop()) as entries:
                    for entry in entries:
                        try:
                            found = entry.stat(follow_symlinks=False)
                        except OSError:
                            continue
                        if found.st_dev != device:
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            stack.append(entry.path)
                        elif found.st_nlink > 1:
                            if (device, found.st_ino) in seen:
                                continue
                            seen.add((device, found.st_ino))
                        yield found.st_blocks * 512
