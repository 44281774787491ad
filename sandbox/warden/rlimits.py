"""The kernel's limits on each process (setrlimit), in case the warden cannot enforce those on the tree."""

from __future__ import annotations

import math
import os
import resource
from typing import NamedTuple

from ..linux import procfs
from ..shared.limits import Limits, tasks_allowed


class Rlimit(NamedTuple):
    """One setrlimit call; the name is for messages."""

    name: str
    which: int
    value: int


def rlimits_of(limits: Limits, *, user_tasks: int | None = None) -> list[Rlimit]:
    """Return what to set in the child before exec. Never RLIMIT_AS: it breaks threads and numpy.

    `user_tasks` is how many threads this user has on the machine now (count_user_tasks()); without it
    there is no RLIMIT_NPROC, which counts all of a user's threads wherever they run.
    """
    if not limits.enforced:
        return []
    plan = []
    if limits.files is not None:
        plan.append(Rlimit("RLIMIT_NOFILE", resource.RLIMIT_NOFILE, limits.files))
    if limits.cpu_time_s is not None:
        # A second line of defence: the warden counts the whole tree's CPU time, and ends it earlier.
        plan.append(Rlimit("RLIMIT_CPU", resource.RLIMIT_CPU, math.ceil(limits.cpu_time_s * 1.1) + 10))
    if limits.pids is not None and user_tasks is not None and os.getuid() != 0:
        # Stops a fork bomb that is faster than the warden. Threads count here too, so leave room for them.
        plan.append(Rlimit("RLIMIT_NPROC", resource.RLIMIT_NPROC, user_tasks + tasks_allowed(limits.pids)))
    return plan


def set_rlimits(plan: list[Rlimit]) -> None:
    """Set soft and hard limits of this process, never above its present hard limit."""
    for one in plan:
        _, hard = resource.getrlimit(one.which)
        value = one.value if hard == resource.RLIM_INFINITY else min(one.value, hard)
        resource.setrlimit(one.which, (value, value))


def leave_no_core_file() -> None:
    """Have processes that crash leave no core file, unless one of them raises this limit.

    In containers there is mostly no limit on core files: each crash would write as much as the process has in
    memory, usually into the folder of the code. 1 byte, and not 0, also keeps the kernel from starting a
    program of core_pattern.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (1 if most == resource.RLIM_INFINITY else min(1, most), most))


def count_user_tasks() -> int:
    """Return how many threads the processes of this user have now: what RLIMIT_NPROC counts."""
    uid = os.getuid()
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += procfs.stat(int(name)).threads
            except OSError:
                continue
    return count
