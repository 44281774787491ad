"""The memory limit of the container around us, and how much of it is left for the algorithm."""

from __future__ import annotations

from .limits import MI

#: Memory that the processes of hkrunner itself need. Measured RSS, rounded up: the parent with its libraries
#: and a message in its buffers, the warden with psutil, one TensorBoard.
PARENT_BYTES = 56 * MI
WARDEN_BYTES = 24 * MI
BOARD_BYTES = 256 * MI

#: Share of kernel memory (page tables, sockets), which counts against a container and is in no RSS.
KERNEL_SHARE = 0.03

#: cgroup v1 says "no limit" with a number near 2**63, rounded down to pages.
_V1_NO_LIMIT = 2**62


def container_memory_bytes(*, root: str = "/") -> int | None:
    """Return the memory limit of the container we are in, the smallest on the way up; None: it has none."""
    try:
        with open(f"{root}/proc/self/cgroup", encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    found: list[int] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            # Unified, or the unified half of a mixed set-up, which has no memory.max then.
            for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
                found += _limits_upwards(f"{root}/{mount}", path, "memory.max")
        elif "memory" in controllers.split(","):
            found += _limits_upwards(f"{root}/sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    return min(found, default=None)


def _limits_upwards(mount: str, path: str, name: str) -> list[int]:
    """Return the limits set in a cgroup and all above it.

    In a container the path may be the one outside, which does not exist inside: then only the mount's
    own top is read, and that is the container's.
    """
    found = []
    parts = [part for part in path.split("/") if part and part != ".."]
    for depth in range(len(parts), -1, -1):
        try:
            with open("/".join([mount, *parts[:depth], name]), encoding="ascii") as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < _V1_NO_LIMIT:
            found.append(int(text))
    return found


def child_memory_bytes(container_bytes: int, *, boards: int = 0, processes: int = 1) -> int:
    """Return what each child's tree may use of its container: the rest after us, never less than half, shared
    equally by the processes of the algorithm.
    """
    ours = PARENT_BYTES + boards * BOARD_BYTES + processes * WARDEN_BYTES
    ours += int(container_bytes * KERNEL_SHARE)
    return max(container_bytes - ours, container_bytes // 2) // processes
