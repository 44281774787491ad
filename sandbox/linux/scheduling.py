"""Scheduling: the warden, which needs little CPU time but at once, runs before what it watches.

With the default time slice, a warden that wakes up on a busy machine waits for up to 3 ms, in which four
processes touch 15 MiB each. The functions need no privileges, and ignore a refusal of the kernel.
"""

from __future__ import annotations

import ctypes
import os

_SLICE_NS = 100_000
#: Enough for the warden to be scheduled first. Among the child's own processes it makes no difference.
CHILD_NICE = 5

#: The numbers of sched_setattr(); that of sched_getattr() is the next one.
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "ppc64le": 355, "s390x": 345}


class _Attributes(ctypes.Structure):
    """struct sched_attr (include/uapi/linux/sched/types.h), its first version."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    ]


def ask_for_short_slices() -> bool:
    """Have this process scheduled soon after it wakes (Linux 6.12); False where the kernel cannot."""
    return _set_slice(_SLICE_NS)


def restore_slices() -> None:
    """Have this process scheduled as others are; a process that it forks inherits its slice."""
    _set_slice(0)


def _set_slice(slice_ns: int) -> bool:
    number = _SCHED_SETATTR.get(os.uname().machine)
    if number is None:
        return False
    attributes = _Attributes()
    size, none = ctypes.c_uint(ctypes.sizeof(attributes)), ctypes.c_uint(0)
    libc = ctypes.CDLL(None)
    # Everything else stays as it is: hkrunner may have been started with a policy of its own (chrt --batch).
    if libc.syscall(ctypes.c_long(number + 1), 0, ctypes.byref(attributes), size, none) != 0:
        return False
    attributes.runtime = slice_ns
    return bool(libc.syscall(ctypes.c_long(number), 0, ctypes.byref(attributes), none) == 0)


def step_back() -> None:
    """Lower this process's priority below the warden's; called in the child before exec."""
    try:
        os.nice(CHILD_NICE)
    except OSError:
        pass
