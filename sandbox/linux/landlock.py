"""Keep the algorithm from sending signals to processes outside its own tree, by Landlock ABI 6.

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
from typing import NamedTuple

#: The same numbers on every architecture but alpha (include/uapi/asm-generic/unistd.h).
_CREATE_RULESET = 444
_RESTRICT_SELF = 446
_VERSION_FLAG = 1
_PR_SET_NO_NEW_PRIVS = 38

SCOPE_ABSTRACT_UNIX_SOCKET = 1
SCOPE_SIGNAL = 2
SCOPES_SINCE_ABI = 6


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


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def abi() -> int:
    """Return the Landlock ABI of this kernel; 0: none."""
    return max(
        0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG)))
    )


def confine(
    *,
    scopes: int = SCOPE_SIGNAL | SCOPE_ABSTRACT_UNIX_SOCKET,
    handled_fs: int = 0,
    handled_net: int = 0,
) -> Applied:
    """Confine this process and all that it starts, for ever; where the kernel cannot, change nothing.

    `handled_fs` and `handled_net` are the rights on files and network to deny; none by default. Never raises:
    the algorithm runs without this protection where there is none.
    """
    version = abi()
    if version == 0:
        return Applied(0, 0, "this kernel has no Landlock")
    if version < SCOPES_SINCE_ABI:
        return Applied(version, 0, f"Landlock ABI {version} has no scopes, they came with {SCOPES_SINCE_ABI}")
    attributes = _RulesetAttributes(handled_fs, handled_net, scopes)
    ruleset = int(
        _libc.syscall(
            _CREATE_RULESET,
            ctypes.byref(attributes),
            ctypes.c_size_t(ctypes.sizeof(attributes)),
            ctypes.c_uint32(0),
        )
    )
    if ruleset < 0:
        return Applied(version, 0, f"no ruleset: {os.strerror(ctypes.get_errno())}")
    try:
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0) != 0:
            return Applied(version, 0, f"no_new_privs: {os.strerror(ctypes.get_errno())}")
        if _libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)) != 0:
            return Applied(version, 0, f"not applied: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(ruleset)
    return Applied(version, scopes)
