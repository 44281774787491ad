"""Finds a deadlock: a thread of a process waits for a lock, and no other thread can release it.

Imported only when a process was refused memory. A runtime may allocate while it reports a failed allocation:
Rust's prints a backtrace while it holds a lock. When an allocation for that backtrace failed too, reporting
it needed the same lock, and the process (with polars) waited for itself.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from . import procfs

#: The numbers of futex and recvmsg (linux: arch/x86/entry/syscalls/syscall_64.tbl and, for aarch64,
#: include/uapi/asm-generic/unistd.h).
_NUMBERS = {"x86_64": (202, 47), "aarch64": (98, 212)}
#: Operations of a futex (linux: include/uapi/linux/futex.h): the flag for one process, two ways to wait.
_PRIVATE = 0x80
_WAIT, _WAIT_BITSET = 0, 9
_CLOCK_REALTIME = 0x100
#: The value of a lock of glibc, and of Rust's std, that is locked while other threads wait for it.
_LOCKED_AND_WANTED = 2


class Waits(NamedTuple):
    """What all threads of a process wait for. If two are equal, no thread ran in between."""

    threads: tuple[tuple[str, bytes], ...]
    cpu_ns: int


def waits_of_deadlock(pid: int) -> Waits | None:
    """Return what the threads wait for if one waits for a lock that no other thread can release.

    That is so if all other threads wait for a futex too, without a time-out, and for one that no other
    process shares. One thread may be in recvmsg: it is hkrunner's own, which waits for the next message and
    holds no lock. None also if the kernel does not say what the threads wait for.
    """
    threads: list[tuple[str, bytes]] = []
    for_a_lock = for_messages = 0
    try:
        futex, recvmsg = _NUMBERS[os.uname().machine]
        for tid in sorted(os.listdir(f"/proc/{pid}/task")):
            text = procfs.read(f"/proc/{pid}/task/{tid}/syscall", 256)
            words = text.split()
            if len(words) < 7:  # b"running"
                return None
            number, arguments = int(words[0]), [int(word, 16) for word in words[1:7]]
            if number == recvmsg:
                for_messages += 1
            elif number == futex and _is_without_end(*arguments):
                for_a_lock += _is_for_a_lock(*arguments)
            else:
                return None
            threads.append((tid, text))
        cpu_ns = procfs.cpu_ns(procfs.process_clock(pid))
    except (KeyError, OSError):
        return None
    return Waits(tuple(threads), cpu_ns) if for_a_lock and for_messages <= 1 else None


def _is_without_end(_address: int, operation: int, _value: int, timeout: int, *_rest: int) -> bool:
    is_private = bool(operation & _PRIVATE)
    return is_private and operation & ~(_PRIVATE | _CLOCK_REALTIME) in (_WAIT, _WAIT_BITSET) and timeout == 0


def _is_for_a_lock(_address: int, operation: int, value: int, *_rest: int) -> bool:
    """Whether the wait is for a lock of glibc's or of Rust's std.

    Python's own locks are semaphores, which wait by the realtime clock; conditions wait for other values.
    """
    return operation in (_PRIVATE | _WAIT, _PRIVATE | _WAIT_BITSET) and value == _LOCKED_AND_WANTED
