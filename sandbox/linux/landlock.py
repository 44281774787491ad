"""Restrict this process, and all that it starts, by Landlock: signals, abstract Unix sockets, and files.

Called in the forked child just before exec, so that every process it starts is confined too. Costs 0.3 ms.
Then the algorithm cannot kill the warden or the parent, kill(-1) reaches its own tree only, and it cannot
connect to abstract unix sockets of other processes. Not covered: prlimit, setpriority and sched_setaffinity
on processes of the same user.

Landlock requires no_new_privs, with which setuid programs (sudo, ping) get no privileges: it is set only when
a ruleset is really going to be applied.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

#: The same numbers on every architecture but alpha (include/uapi/asm-generic/unistd.h).
_CREATE_RULESET = 444
_ADD_RULE = 445
_RESTRICT_SELF = 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_SCOPE_ABSTRACT_UNIX_SOCKET = 1
_SCOPE_SIGNAL = 2
#: Signals and abstract sockets stay within the confined processes.
SCOPES = _SCOPE_SIGNAL | _SCOPE_ABSTRACT_UNIX_SOCKET
SCOPES_SINCE_ABI = 6
TRUNCATE_SINCE_ABI = 3
#: For rights on files: without REFER every rename to another folder is refused.
LEAST_ABI = 2

#: Rights on files (include/uapi/linux/landlock.h).
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
#: All but the making of device files.
WRITE = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM
WRITE |= REFER | TRUNCATE
#: The rights that a file has: others are refused for it.
_OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV


class Rule(NamedTuple):
    """A path, and the rights on it and on everything below it."""

    path: str
    rights: int


class Applied(NamedTuple):
    """The confinement that is now in effect, or the reason for none."""

    abi: int  #: 0: the kernel has no Landlock, or it is switched off
    scopes: int
    why_not: str = ""  #: empty when it was applied

    def describe(self) -> str:
        """Return a clause for the line that describes the limits."""
        if self.why_not:
            return f"signals unconfined: {self.why_not}"
        return "signals confined to the algorithm's own processes"


class _RulesetAttributes(ctypes.Structure):
    _fields_ = [
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    ]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def abi() -> int:
    """Return the Landlock ABI of this kernel; 0: none."""
    return max(
        0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG)))
    )


def all_rights(version: int) -> int:
    """Return every right on files that this ABI knows."""
    known = (1 << 13) - 1
    for since, right in ((LEAST_ABI, REFER), (TRUNCATE_SINCE_ABI, TRUNCATE), (5, IOCTL_DEV)):
        if version >= since:
            known |= right
    return known


def confine(*, handled_fs: int = 0, rules: Iterable[Rule] = ()) -> Applied:
    """Confine this process and all that it starts, for ever; where the kernel cannot, change nothing.

    It can send signals, and connect to abstract sockets, within itself only. `handled_fs`: rights on files to
    deny, but for what `rules` allow. Never raises: the algorithm runs without this protection where there is
    none.
    """
    version = abi()
    if version == 0:
        return Applied(0, 0, "this kernel has no Landlock")
    if version < SCOPES_SINCE_ABI:
        return Applied(version, 0, f"Landlock ABI {version} has no scopes, they came with {SCOPES_SINCE_ABI}")
    try:
        restrict(scopes=SCOPES, handled_fs=handled_fs, rules=rules)
    except OSError as error:
        return Applied(version, 0, f"not applied: {error.strerror}")
    return Applied(version, SCOPES)


def restrict(*, scopes: int, handled_fs: int, rules: Iterable[Rule]) -> None:
    """Confine this process as confine() does; the kernel must know these scopes and rights. Raises OSError.

    A path that does not exist needs no rule, and gets none.
    """
    attributes = _RulesetAttributes(handled_fs, 0, scopes)
    # Older kernels refuse a structure that is larger than they know, unless the rest is zero.
    ruleset = _checked(
        _libc.syscall(
            _CREATE_RULESET,
            ctypes.byref(attributes),
            ctypes.c_size_t(ctypes.sizeof(attributes)),
            ctypes.c_uint32(0),
        )
    )
    try:
        for rule in rules:
            _allow(ruleset, rule, handled_fs)
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0))
        _checked(_libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)


def all_but_sys(root: str = "/") -> list[Rule]:
    """Return rules that allow writing below every folder of the root but /sys, where the cgroups are."""
    rules = []
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name != "sys" and entry.is_dir(follow_symlinks=False):
                rules.append(Rule(entry.path, WRITE_FILE | REFER))
    return rules


def _allow(ruleset: int, rule: Rule, handled_fs: int) -> None:
    try:
        fd = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        rights = rule.rights & handled_fs
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_A_FILE
        if rights:
            beneath = _PathBeneath(rights, fd)
            _checked(
                _libc.syscall(
                    _ADD_RULE,
                    ctypes.c_int(ruleset),
                    ctypes.c_int(_RULE_PATH_BENEATH),
                    ctypes.byref(beneath),
                    ctypes.c_uint32(0),
                )
            )
    finally:
        os.close(fd)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
