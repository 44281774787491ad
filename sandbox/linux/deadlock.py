"""Finds deadlocks: no other thread can release the lock, or wake the process tree, that a thread waits for.

Imported only when a process was refused memory. A runtime may allocate while it reports a failed allocation:
Rust's prints a backtrace while it holds a lock. When an allocation for that backtrace failed too, reporting
it needed the same lock, and the process (with polars) waited for itself.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from signal import SIGALRM, SIGPROF, SIGUSR1, SIGUSR2, SIGVTALRM
from typing import NamedTuple

from . import procfs
from .wait_sources import WaitSources

#: The numbers of futex and recvmsg (linux: arch/x86/entry/syscalls/syscall_64.tbl and, for aarch64,
#: include/uapi/asm-generic/unistd.h).
_NUMBERS = {"x86_64": (202, 47), "aarch64": (98, 212)}
#: Calls that wait for one descriptor, their first argument: read, write, readv, writev, sendto, recvfrom,
#: sendmsg, recvmsg.
_OF_ONE = {"x86_64": {0, 1, 19, 20, 44, 45, 46, 47}, "aarch64": {63, 64, 65, 66, 206, 207, 211, 212}}
#: Calls that wait for the end of a process: wait4, waitid.
_OF_CHILDREN = {"x86_64": {61, 247}, "aarch64": {260, 95}}
#: Calls that wait for several descriptors, and which argument is the time-out, a pointer: ppoll; pselect6.
#: The same with milliseconds, negative for none: poll; epoll_wait. x86_64 has select, too.
_PPOLL, _PSELECT = {"x86_64": 271, "aarch64": 73}, {"x86_64": {270, 23}, "aarch64": {72}}
_POLL, _EPOLL = {"x86_64": 7}, {"x86_64": {232, 281}, "aarch64": {22}}
#: Most descriptors of one poll() that are looked at.
_MOST_POLLED = 4096
#: Signals that may wake a process which handles them: of its own timers SIGALRM, SIGVTALRM and SIGPROF, and
#: SIGUSR1 and SIGUSR2, which hkrunner passes on.
_WAKING = sum(1 << one - 1 for one in (SIGALRM, SIGVTALRM, SIGPROF, SIGUSR1, SIGUSR2))
#: Operations of a futex (linux: include/uapi/linux/futex.h): the flag for one process, two ways to wait.
_PRIVATE = 0x80
_WAIT, _WAIT_BITSET = 0, 9
_CLOCK_REALTIME = 0x100
#: The kernel shows a register of 64 bits, of which an int fills the lower half.
_NEGATIVE = 0x8000_0000
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


def waits_of_tree(
    pids: Collection[int], child: int, control: int, *, has_stop: bool, is_explained: bool
) -> Waits | None:
    """Return what all threads of the processes wait for, if nothing but they themselves could wake any.

    Each waits without a time-out for a lock, the end of a process, or what only the tree has open
    (wait_sources.py). A thread of the process `child` may wait on the socket `control`, an inode, for a stop.
    Where its main thread waits for nothing but itself, that may be the user's stop() (`has_stop`), or in
    a coroutine the stop that cancels it, unless the wait `is_explained` otherwise.
    """
    threads: list[tuple[str, bytes]] = []
    calls: list[tuple[int, int, list[int]]] = []  #: of each thread: its process, the number, the arguments
    cpu_ns = 0
    parents = set()
    machine = os.uname().machine
    try:
        alive = [(pid, facts) for pid in pids if (facts := procfs.stat(pid)).state != b"Z"]
        for pid, facts in alive:
            parents.add(facts.parent)
            for tid in sorted(os.listdir(f"/proc/{pid}/task"), key=int):
                text = procfs.read(f"/proc/{pid}/task/{tid}/syscall", 256)
                words = text.split()
                if len(words) < 7 or procfs.stat(pid, int(tid)).state != b"S":  # b"running"
                    return None
                threads.append((tid, text))
                calls.append((pid, int(words[0]), [int(word, 16) for word in words[1:7]]))
            cpu_ns += procfs.cpu_ns(procfs.process_clock(pid))
            if _awaits_signal(pid):
                return None
        sources = WaitSources([pid for pid, _ in alive])
        for (tid, _), (pid, number, arguments) in zip(threads, calls, strict=True):
            if number in _OF_CHILDREN[machine]:
                if pid not in parents:  # it traces a process of somebody else's
                    return None
                continue
            wakers = _wakers(sources, machine, pid, number, arguments)
            if pid == child and number == _NUMBERS[machine][1] and not wakers:
                wakers = {pid} if sources.link(pid, arguments[0]) == f"socket:[{control}]" else ()
            if not wakers:
                return None
            is_of_itself = tid == str(child) and not set(wakers) - {pid}
            is_futex = number == _NUMBERS[machine][0]
            if is_of_itself and not is_explained and (has_stop or not is_futex):
                return None
    except (KeyError, OSError, ValueError):  # one has just ended, or may not be read
        return None
    return Waits(tuple(threads), cpu_ns) if threads else None


def _wakers(
    sources: WaitSources, machine: str, pid: int, number: int, arguments: list[int]
) -> Collection[int]:
    """Return the processes that can wake a thread in this call; none if others, or its time-out, may."""
    first, second, third, fourth, fifth, _ = arguments
    if number == _NUMBERS[machine][0]:
        if second & ~(_PRIVATE | _CLOCK_REALTIME) not in (_WAIT, _WAIT_BITSET) or fourth:
            return ()
        return {pid} if second & _PRIVATE else _sharers(pid, first)
    if number in _OF_ONE[machine]:
        return sources.wakers(pid, first)
    if number in _EPOLL[machine]:
        return sources.wakers(pid, first) if fourth & _NEGATIVE else ()
    if number == _PPOLL[machine] or number == _POLL.get(machine):
        is_endless = third & _NEGATIVE if number != _PPOLL[machine] else not third
        if not is_endless or second > _MOST_POLLED:
            return ()
        # struct pollfd: the descriptor, events, and what has happened
        polled = struct.iter_unpack("=ihh", _memory(pid, first, 8 * second))
        return sources.wakers_of_all(pid, [fd for fd, _, _ in polled if fd >= 0])
    if number in _PSELECT[machine] and not fifth and first <= 8 * 128:
        found: set[int] = set()
        for address in (second, third, fourth):
            bits = int.from_bytes(_memory(pid, address, 8 * -(-first // 64)), "little") if address else 0
            found.update(fd for fd in range(first) if bits >> fd & 1)
        return sources.wakers_of_all(pid, found)
    return ()


def _memory(pid: int, address: int, size: int) -> bytes:
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.pread(fd, size, address)
    finally:
        os.close(fd)
    if len(found) < size:
        raise ValueError("it is not mapped")
    return found


def _sharers(pid: int, address: int) -> Collection[int]:
    """Return the processes that may have mapped what is at this address, 0 for others of the tree.

    None if it has a name, by which anybody may map it. A semaphore of multiprocessing that is for forked
    processes has lost its name as soon as it was made.
    """
    for line in procfs.read_all(f"/proc/{pid}/maps").splitlines():
        words = line.split(None, 5)
        low, _, high = words[0].partition(b"-")
        if int(low, 16) <= address < int(high, 16):
            inode, path = int(words[4]), words[5] if len(words) > 5 else b""
            if inode and not path.endswith(b" (deleted)"):
                return ()
            # One with a name, too, is mapped by a temporary name that is gone.
            is_named = path.startswith(b"/dev/shm/") and _has_name(f"/proc/{pid}/root/dev/shm", inode)
            return () if is_named else {pid, 0}
    return ()


def _has_name(folder: str, inode: int) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.inode() == inode for entry in entries)


def _awaits_signal(pid: int) -> bool:
    """Whether a signal may wake the process: of hkrunner, or of a timer of alarm() or timer_create()."""
    caught = procfs.status_field(pid, b"SigCgt", 16) or 0
    try:
        timers = procfs.read(f"/proc/{pid}/timers")
    except FileNotFoundError:  # a kernel without CONFIG_CHECKPOINT_RESTORE
        timers = b""
    return bool(timers or caught & _WAKING)


def _is_without_end(_address: int, operation: int, _value: int, timeout: int, *_rest: int) -> bool:
    is_private = bool(operation & _PRIVATE)
    return is_private and operation & ~(_PRIVATE | _CLOCK_REALTIME) in (_WAIT, _WAIT_BITSET) and timeout == 0


def _is_for_a_lock(_address: int, operation: int, value: int, *_rest: int) -> bool:
    """Whether the wait is for a lock of glibc's or of Rust's std.

    Python's own locks are semaphores, which wait by the realtime clock; conditions wait for other values.
    """
    return operation in (_PRIVATE | _WAIT, _PRIVATE | _WAIT_BITSET) and value == _LOCKED_AND_WANTED
