"""The limits of the container in which hkrunner runs, and how much memory they leave for the algorithm."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from .limits import MI

#: Memory that the processes of hkrunner itself need. Measured RSS, rounded up: the parent with its libraries
#: and a message in its buffers, the warden with psutil.
PARENT_BYTES = 56 * MI
WARDEN_BYTES = 24 * MI
#: The process of storage v3, without what it keeps for peers and for the next task.
STORAGE_BYTES = 40 * MI

#: Share of kernel memory (page tables, sockets), which counts against a container and is in no RSS.
KERNEL_SHARE = 0.03

#: cgroup v1 says "no limit" with a number near 2**63, rounded down to pages.
_V1_NO_LIMIT = 2**62


def container_memory_bytes(*, root: str = "/") -> int | None:
    """Return the container's memory limit, the smallest of its cgroup and those above it; None: no limit."""
    found = [
        int(text)
        for (text,) in _upwards(root, "memory", ("memory.max",), ("memory.limit_in_bytes",))
        if text.isdigit() and int(text) < _V1_NO_LIMIT
    ]
    return min(found, default=None)


def available_cores(*, root: str = "/") -> float:
    """Return how many cores this process and those that it starts may use: the number of its affinity, or the
    quota of its container if that is less, which leaves all cores visible."""
    cores = float(len(os.sched_getaffinity(0)))
    for values in _upwards(root, "cpu", ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        quota, _, period = " ".join(values).partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            cores = min(cores, int(quota) / int(period))
    return cores


def refusing_task_limits(pid: int, *, root: str = "/") -> list[int]:
    """Return the limits on processes and threads (pids.max) that have refused one to the cgroup of this
    process, and to those above it."""
    files = ("pids.max", "pids.events")
    return [
        int(most)
        for most, events in _upwards(root, "pids", files, files, process=str(pid))
        if most.isdigit() and "max 0" not in events.splitlines()
    ]


def _upwards(
    root: str, controller: str, v2_files: Sequence[str], v1_files: Sequence[str], *, process: str = "self"
) -> Iterator[list[str]]:
    """Yield the texts of these files in each cgroup that the process is in, the topmost included."""
    try:
        with open(f"{root}/proc/{process}/cgroup", "rb") as file:
            lines = os.fsdecode(file.read()).splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            # Unified, or the unified half of a mixed set-up, which has no memory.max then.
            for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
                yield from _texts_upwards(f"{root}/{mount}", path, v2_files)
        elif controller in controllers.split(","):
            yield from _texts_upwards(f"{root}/sys/fs/cgroup/{controller}", path, v1_files)


def _texts_upwards(mount: str, path: str, files: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts of the files in a cgroup and in all above it.

    In a container the path may be the one outside, which does not exist inside: then only the mount's
    own top is read, and that is the container's.
    """
    parts = [part for part in path.split("/") if part and part != ".."]
    for depth in range(len(parts), -1, -1):
        texts = []
        for name in files:
            path_of_file = "/".join([mount, *parts[:depth], name])
            with contextlib.suppress(OSError), open(path_of_file, encoding="ascii") as file:
                texts.append(file.read().strip())
        if len(texts) == len(files):
            yield texts


def child_memory_bytes(container_bytes: int, *, processes: int = 1, storage_bytes: int = 0) -> int:
    """Return the memory that each of `processes` child trees may use: an equal share of what hkrunner's own
    processes leave of the container, or of half of it if they leave less.

    `storage_bytes`: for the process of storage v3, if there is one.
    """
    ours = PARENT_BYTES + storage_bytes + processes * WARDEN_BYTES
    ours += int(container_bytes * KERNEL_SHARE)
    return max(container_bytes - ours, container_bytes // 2) // processes
