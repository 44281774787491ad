"""Finds deadlocks: no other thread can release the lock, or wake the process tree, that a thread waits for.

Imported only when a process was refused memory. A runtime may allocate while it reports a failed allocation:
Rust's prints a backtrace while it holds a lock. When an allocation for that backtrace failed too, reporting
it needed the same lock, and the process (with polars) waited for itself.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from typing import NamedTuple

from . import procfs

#: The numbers of futex and recvmsg (linux: arch/x86/entry/syscalls/syscall_64.tbl and, for aarch64,
#: include/uapi/asm-generic/unistd.h).
_NUMBERS = {"x86_64": (202, 47), "aarch64": (98, 212)}
#: Calls that wait, and which argument is the time-out, which is a pointer; None: there is none. These are
#: futex, read, ppoll, pselect6, wait4, waitid, recvfrom and recvmsg, and select of x86_64.
_WAITING: dict[str, dict[int, int | None]] = {
    "x86_64": {202: 3, 0: None, 271: 2, 270: 4, 61: None, 247: None, 45: None, 47: None, 23: 4},
    "aarch64": {98: 3, 63: None, 73: 2, 72: 4, 260: None, 95: None, 207: None, 212: None},
}
#: The same with milliseconds, negative for none: epoll_pwait, and poll and epoll_wait of x86_64.
_WAITING_MS = {"x86_64": {281: 3, 7: 2, 232: 3}, "aarch64": {22: 3}}
#: Open files by which no process outside a tree can wake it, besides pipes, folders and regular files.
_OF_A_TREE = ("pipe:[", "anon_inode:[eventpoll]", "anon_inode:[eventfd]", "anon_inode:[pidfd]", "/memfd:")
_QUIET_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/full")
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


def waits_of_tree(pids: Collection[int], channel: Collection[int]) -> Waits | None:
    """Return what all threads of the processes wait for if only the parent's messages could wake any of them.

    Each waits without a time-out: for a lock, a pipe, the end of a process. No process has anything open by
    which others could wake it (a socket, a timer, a terminal) but the sockets of the channel, by inode.
    """
    threads: list[tuple[str, bytes]] = []
    cpu_ns = 0
    try:
        for pid in pids:
            if procfs.stat(pid).state == b"Z":
                continue
            if not all(
                _is_of_the_tree(f"/proc/{pid}/fd/{fd}", channel) for fd in os.listdir(f"/proc/{pid}/fd")
            ):
                return None
            for tid in sorted(os.listdir(f"/proc/{pid}/task")):
                text = procfs.read(f"/proc/{pid}/task/{tid}/syscall", 256)
                if not _waits_for_ever(text.split()):
                    return None
                threads.append((tid, text))
            cpu_ns += procfs.cpu_ns(procfs.process_clock(pid))
    except (OSError, ValueError):  # one has just ended, or may not be read
        return None
    return Waits(tuple(threads), cpu_ns) if threads else None


def _is_of_the_tree(fd: str, channel: Collection[int]) -> bool:
    link = os.readlink(fd)
    if link.startswith(_OF_A_TREE) or link in _QUIET_DEVICES:
        return True
    facts = os.stat(fd)
    return facts.st_ino in channel or stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)


def _waits_for_ever(words: list[bytes]) -> bool:
    if len(words) < 7:  # b"running"
        return False
    number, machine = int(words[0]), os.uname().machine
    at_ms = _WAITING_MS.get(machine, {}).get(number)
    if at_ms is not None:
        # The kernel shows a register of 64 bits, of which an int fills the lower half.
        return bool(int(words[1 + at_ms], 16) & 0x8000_0000)
    waiting = _WAITING.get(machine, {})
    at = waiting.get(number)
    return number in waiting and (at is None or int(words[1 + at], 16) == 0)


def _is_without_end(_address: int, operation: int, _value: int, timeout: int, *_rest: int) -> bool:
    is_private = bool(operation & _PRIVATE)
    return is_private and operation & ~(_PRIVATE | _CLOCK_REALTIME) in (_WAIT, _WAIT_BITSET) and timeout == 0


def _is_for_a_lock(_address: int, operation: int, value: int, *_rest: int) -> bool:
    """Whether the wait is for a lock of glibc's or of Rust's std.

    Python's own locks are semaphores, which wait by the realtime clock; conditions wait for other values.
    """
    return operation in (_PRIVATE | _WAIT, _PRIVATE | _WAIT_BITSET) and value == _LOCKED_AND_WANTED
