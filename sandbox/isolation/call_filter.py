"""The seccomp filter: which system calls the algorithm may make.

Allowed is everything but what call_numbers.py lists, and what is refused here by its arguments. `sendto`,
`bind` and `connect` are never refused: asyncio hangs without them. What a program may reach is decided when
it makes a socket, and by the network namespace.
"""

from __future__ import annotations

import errno
import os
import struct

from . import call_numbers

#: include/uapi/linux/audit.h
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: struct seccomp_data: the number of the call, the architecture, the low words of the arguments.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
#: Every CLONE_NEW… that clone(2) knows.
_CLONE_NAMESPACES = 0x7E020000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
#: With a lease on a file that it may only read, code delays each process that opens the file by 45 s.
_F_SETLEASE, _F_SETDELEG = 1024, 1040
#: The mode bit with which a program runs as its owner; for each call that takes a mode, which argument it is.
_SETUID = 0o4000
_MODES = {"creat": 1, "mknod": 1, "mknodat": 2, "chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2}
#: The arguments that are the flags; the mode is the next one.
_OPEN_FLAGS = {"openat": 2, "open": 1}
_MAKES_A_FILE = 0o20000100  # O_CREAT, and what O_TMPFILE adds to O_DIRECTORY
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_STREAM, _DATAGRAM, _TYPE_MASK = 1, 2, 0xF
#: Protocols of IPv4 and IPv6: the default of the type, ICMP, TCP, UDP, ICMPv6. Others (SCTP, MPTCP, UDP-Lite)
#: would have the kernel load modules that are less well examined.
_PROTOCOLS = (0, 1, 6, 17, 58)

_Step = tuple[int, int, int, int]


def is_known() -> bool:
    """Whether there is a filter for this machine's architecture."""
    return os.uname().machine in _ARCHITECTURES


def build(*, internet: bool, own_processes: bool) -> bytes:
    """Return the program for this machine.

    `internet`: whether the algorithm may make sockets for IPv4 and IPv6. `own_processes`: whether it is in a
    pid namespace, so that it cannot name the processes of others.
    """
    machine = os.uname().machine
    calls = call_numbers.WITH_ARGUMENTS[machine]
    steps: list[_Step] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        # The calls of x32 have numbers above it, too.
        (_AT_LEAST, 0, 1, call_numbers.NEWEST + 1),
        _refuse(errno.ENOSYS),
    ]
    # First, since the kernel runs the filter for each of these calls; of others it remembers the result.
    for name, block in _blocks(internet=internet, own_processes=own_processes).items():
        if name in calls:
            steps += [(_EQUAL, 0, len(block), calls[name]), *block]
    for numbers, code in (
        (call_numbers.REFUSED[machine], errno.EPERM),
        (call_numbers.MISSING[machine], errno.ENOSYS),
    ):
        for number in numbers.values():
            steps += [(_EQUAL, 0, 1, number), _refuse(code)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _blocks(*, internet: bool, own_processes: bool) -> dict[str, list[_Step]]:
    """Return the decision for each call whose arguments matter; each block ends with a return."""
    allow = (_RETURN, 0, 0, _ALLOW)
    unknown_family = _refuse(errno.EAFNOSUPPORT)
    kinds = _kinds_of_internet(internet, allow)
    sockets = [
        _argument(0),
        (_EQUAL, 0, 1, _UNIX),
        allow,
        (_EQUAL, 0, 4, _NETLINK),
        _argument(2),
        (_EQUAL, 0, 1, 0),  # NETLINK_ROUTE: the addresses of the own interfaces
        allow,
        unknown_family,
        (_EQUAL, 1, 0, _INET),
        (_EQUAL, 0, len(kinds), _INET6),
        *kinds,
        unknown_family,
    ]
    blocks = {
        **_setuid_refused(allow),
        "clone": [_argument(0), (_ANY_BIT, 0, 1, _CLONE_NAMESPACES), _refuse(errno.EPERM), allow],
        "fcntl": _either_refused(1, _F_SETLEASE, _F_SETDELEG, allow),
        "ioctl": _either_refused(1, _TIOCSTI, _TIOCLINUX, allow),
        "socket": sockets,
        "socketpair": [_argument(0), (_EQUAL, 0, 1, _UNIX), allow, unknown_family],
    }
    if not own_processes:
        # 0 is the calling process; by its pid, any other process could be changed.
        itself = [_argument(0), (_EQUAL, 0, 1, 0), allow, _refuse(errno.EPERM)]
        for name in ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam"):
            blocks[name] = itself
        blocks["sched_setattr"] = itself
        for name, itself_kind in (("setpriority", 0), ("ioprio_set", 1)):
            blocks[name] = [
                _argument(0),
                (_EQUAL, 0, 3, itself_kind),
                _argument(1),
                (_EQUAL, 0, 1, 0),
                allow,
                _refuse(errno.EPERM),
            ]
    return blocks


def _setuid_refused(allow: _Step) -> dict[str, list[_Step]]:
    """Refuse to make a setuid program, which anyone could run as this user after the run."""
    refused = (_ANY_BIT, 0, 1, _SETUID), _refuse(errno.EPERM), allow
    blocks: dict[str, list[_Step]] = {}
    for name, flags in _OPEN_FLAGS.items():
        is_made = (_argument(flags), (_ANY_BIT, 0, 1, _MAKES_A_FILE), _refuse(errno.EPERM), allow)
        blocks[name] = [_argument(flags + 1), (_ANY_BIT, 1, 0, _SETUID), allow, *is_made]
    for name, mode in _MODES.items():
        blocks[name] = [_argument(mode), *refused]
    return blocks


def _kinds_of_internet(internet: bool, allow: _Step) -> list[_Step]:
    """Return the steps that allow TCP, UDP and ping, or without `internet` refuse all."""
    refuse = _refuse(errno.EACCES)
    if not internet:
        return [refuse]
    last = len(_PROTOCOLS) - 1
    return [
        _argument(1),
        (_AND, 0, 0, _TYPE_MASK),
        (_EQUAL, 2, 0, _STREAM),
        (_EQUAL, 1, 0, _DATAGRAM),
        refuse,
        _argument(2),
        *((_EQUAL, last - at + 1, 0, one) for at, one in enumerate(_PROTOCOLS)),
        _refuse(errno.EPROTONOSUPPORT),
        allow,
    ]


def _either_refused(index: int, one: int, other: int, allow: _Step) -> list[_Step]:
    """Refuse a call whose argument has one of two values."""
    return [_argument(index), (_EQUAL, 1, 0, one), (_EQUAL, 0, 1, other), _refuse(errno.EPERM), allow]


def _argument(index: int) -> _Step:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)


def _refuse(code: int) -> _Step:
    return (_RETURN, 0, 0, _ERRNO | code)
