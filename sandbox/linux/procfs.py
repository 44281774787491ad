"""Reads /proc with as few system calls as possible. A process may end before or during any of these calls.

psutil reads the same files, in 13 to 1,000 microseconds a call. These are read up to two thousand times a
second, where psutil would use more CPU time than the programs that are watched.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

PAGE = os.sysconf("SC_PAGE_SIZE")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

#: The kernel adds up RSS in per-CPU counters since 6.2; a reading can be off by this much
#: (lib/percpu_counter.c: a batch of max(32, 2 * CPUs) pages on each CPU).
_CPUS = os.cpu_count() or 1
RSS_DOUBT_BYTES = _CPUS * max(32, 2 * _CPUS) * PAGE

#: Read of /proc/PID/status, in which each group of the user takes up to 11 bytes: a few hundred of them take
#: more than a page. To ask for a MiB takes twice as long, however little there is.
STATUS_BYTES = 64 * 1024

#: The flag of a task that has begun to end (linux: include/linux/sched.h, kernel/exit.c).
_PF_EXITING = 0x4


def read(path: str, size: int = 4096) -> bytes:
    """Return the beginning of a file in one read; OSError when the process has ended."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, size)
    finally:
        os.close(fd)


def read_all(path: str) -> bytes:
    """Return a whole file of /proc, which has no size, and which the kernel may return in several parts."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def status(pid: int) -> bytes:
    """Return /proc/PID/status; OSError when the process is gone."""
    return read(f"/proc/{pid}/status", STATUS_BYTES)


def handles_signal(pid: int, number: int) -> bool:
    """Whether the process catches or ignores this signal; False when it is gone."""
    try:
        masks = [status_field(pid, name, 16) or 0 for name in (b"SigCgt", b"SigIgn")]
    except OSError:
        return False
    return any(mask >> (number - 1) & 1 for mask in masks)


def has_children_files() -> bool:
    """Whether this kernel lists a thread's children (CONFIG_PROC_CHILDREN)."""
    me = os.getpid()
    return os.path.exists(f"/proc/{me}/task/{me}/children")


def children(pid: int) -> list[int]:
    """Return the direct children of all threads of a process; empty when it is gone.

    The kernel may omit one while others end. A caller that needs all of them repeats it, or uses parents().
    """
    found: list[int] = []
    base = f"/proc/{pid}/task/"
    try:
        threads = os.listdir(base)
    except OSError:
        return found
    for thread in threads:
        try:
            text = read_all(f"{base}{thread}/children")
        except OSError:
            continue
        if text:
            found.extend(map(int, text.split()))
    return found


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that are used here."""

    state: bytes
    parent: int
    minor_faults: int
    ended_children_ns: int  #: CPU time of the descendants that this process has waited for
    threads: int
    started: int  #: in ticks since boot; with the pid, the identity of a process
    rss_bytes: int


def _stat_fields(pid: int, thread: int = 0) -> list[bytes]:
    # The name is in brackets and may hold brackets and blanks: the fields start after the last one.
    path = f"/proc/{pid}/task/{thread}/stat" if thread else f"/proc/{pid}/stat"
    return read(path).rpartition(b")")[2].split()


def stat(pid: int, thread: int = 0) -> Stat:
    """Read /proc/PID/stat, or that of one of its threads; OSError when the process or thread is gone."""
    f = _stat_fields(pid, thread)
    if len(f) < 22:
        raise ProcessLookupError
    return Stat(
        state=f[0],
        parent=int(f[1]),
        minor_faults=int(f[7]),
        ended_children_ns=(int(f[13]) + int(f[14])) * TICK_NS,
        threads=int(f[17]),
        started=int(f[19]),
        rss_bytes=int(f[21]) * PAGE,
    )


def is_ending(pid: int) -> bool:
    """Whether the process has ended or has begun to; OSError when it is gone.

    A process that ends closes its descriptors first, and is still its children's parent while it does.
    """
    fields = _stat_fields(pid)
    return fields[0] in (b"Z", b"X") or bool(int(fields[6]) & _PF_EXITING)


def is_zombie(pid: int) -> bool:
    """Whether the process has ended, and its parent has not waited for it; False when it is gone."""
    try:
        return _stat_fields(pid)[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def has_ended_by_itself(pid: int) -> bool:
    """Whether the process has ended or has begun to, and not by a signal; OSError when it is gone.

    One that the warden ends gets a signal: SIGKILL, or the one that has it write its stacks first. The reason
    (proc_pid_stat(5), exit_code) is known as soon as its memory is given up.
    """
    fields = _stat_fields(pid)
    is_last_thread = int(fields[17]) <= 1  # the main thread may have ended before the others
    return bool(int(fields[6]) & _PF_EXITING) and is_last_thread and not int(fields[49]) & 0x7F


def parents() -> dict[int, int]:
    """Return the parent of every process on the machine."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = read(f"/proc/{name}/stat", 512).rpartition(b")")[2].split(None, 2)
                found[int(name)] = int(fields[1])
            except (OSError, IndexError, ValueError):
                continue
    return found


def below(root: int, parent_of: dict[int, int]) -> dict[int, int]:
    """Return the processes below a root, with their parents; `parent_of` has every process's parent."""
    children_of: dict[int, list[int]] = {}
    for pid, parent in parent_of.items():
        children_of.setdefault(parent, []).append(pid)
    found: dict[int, int] = {}
    stack = [root]
    while stack:
        parent = stack.pop()
        for pid in children_of.get(parent, ()):
            if pid not in found and pid != root:
                found[pid] = parent
                stack.append(pid)
    return found


class Pss(NamedTuple):
    """A process's share of memory that the kernel cannot reclaim: without clean pages of files."""

    anon_bytes: int  #: including what is swapped out
    shmem_bytes: int


def pss(pid: int) -> Pss:
    """Read the exact sums of a process (smaps_rollup); OSError when it has ended or must not be read.

    Takes the kernel about 170 microseconds for 300 MiB, and waits for the process's own mmap lock.
    """
    values: dict[bytes, int] = {}
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines()[1:]:
        name, _, rest = line.partition(b":")
        values[name] = int(rest.split(None, 1)[0]) * 1024
    if not values:
        raise ProcessLookupError  # a zombie has no memory and no exact sums
    swapped = values.get(b"SwapPss", 0)
    if b"Pss_Anon" in values:
        return Pss(values[b"Pss_Anon"] + swapped, values.get(b"Pss_Shmem", 0))
    return Pss(values[b"Pss"] + swapped, 0)  # before Linux 5.4


def mapped_objects_bytes(pid: int) -> int:
    """Return the process's share of the shared objects that it maps and that have a size of their own.

    These are files below /dev/shm, memfds and System V segments; shared anonymous memory is not among them.
    """
    total = 0
    is_object = False
    for line in read_all(f"/proc/{pid}/smaps").splitlines():
        if line.startswith(b"Pss:"):
            if is_object:
                total += int(line.split()[1]) * 1024
        elif b"-" in line.partition(b" ")[0]:
            path = line.split(None, 5)[5:]
            is_object = bool(path) and path[0].startswith((b"/dev/shm/", b"/memfd:", b"/SYSV"))
    return total


def status_field(pid: int, name: bytes, base: int = 10) -> int | None:
    """Return one number of /proc/PID/status; None: no such line. OSError when the process is gone."""
    text = status(pid)
    start = text.find(b"\n" + name + b":")
    if start < 0:
        return None
    return int(text[start + len(name) + 2 :].split(None, 1)[0], base)


def rss(pid: int) -> int:
    """Return the memory that a process uses, pages of files included; 0 when it is gone."""
    try:
        return int(read(f"/proc/{pid}/statm", 128).split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def catches(pid: int, number: int) -> bool:
    """Whether the process is alive and has a handler for this signal."""
    try:
        caught = status_field(pid, b"SigCgt", 16) or 0
        return bool(caught >> (number - 1) & 1) and stat(pid).state not in b"ZX"
    except (OSError, ValueError):
        return False


def name(pid: int) -> str:
    """Return the short name of a process; "?" when it is gone."""
    try:
        return read(f"/proc/{pid}/comm", 64).decode("utf-8", "replace").strip() or "?"
    except OSError:
        return "?"


def process_clock(pid: int) -> int:
    """Return the clock id of a process's CPU time (linux: include/linux/posix-timers.h, CPUCLOCK_SCHED).

    Reading it takes half a microsecond and gives nanoseconds, of ended threads too, until it is reaped.
    """
    return (~pid << 3) | 2


def cpu_ns(clock: int) -> int:
    """Read a process clock; OSError when the process is gone."""
    return time.clock_gettime_ns(clock)
