"""Linux system calls that the standard library does not offer."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct

_libc = ctypes.CDLL(None, use_errno=True)

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def become_subreaper(on: bool = True) -> None:
    """From now on, orphaned descendants become children of this process instead of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(on))


def die_with_parent(parent: int) -> None:
    """Have the kernel SIGKILL this process when the thread that forked it ends.

    Call it last before exec, in a child forked by the parent's only thread: a change of credentials
    clears it. If the parent has died in between, this ends the process at once.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def show_to_same_user() -> None:
    """Undo hide_from_same_user(), which a forked process inherits: it can open its own /proc/self again."""
    _prctl(_PR_SET_DUMPABLE, 1)


def hide_from_same_user() -> None:
    """Make /proc/PID/{environ,mem,fd} of this process unreadable for other processes of the same user."""
    _prctl(_PR_SET_DUMPABLE, 0)


def exchange(one: str, other: str) -> None:
    """Exchange the two paths atomically. Raises OSError where that is not possible.

    renameat2(2) needs glibc 2.28, and not every file system supports it.
    """
    try:
        call = _libc.renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    paths = ctypes.c_char_p(os.fsencode(one)), ctypes.c_char_p(os.fsencode(other))
    if call(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_STATX_BTIME = 0x800
#: Offsets in struct statx (linux: include/uapi/linux/stat.h): the mask, and the time of creation.
_STX_MASK, _STX_BTIME = 0, 80


def birth_s(path: str) -> float | None:
    """Return when this file or folder was made, in seconds since the epoch; None: it is not recorded."""
    try:
        call = _libc.statx
    except AttributeError:
        return None
    at_symlink_nofollow = 0x100
    buffer = ctypes.create_string_buffer(256)
    name = ctypes.c_char_p(os.fsencode(path))
    if call(_AT_FDCWD, name, at_symlink_nofollow, ctypes.c_uint(_STATX_BTIME), buffer) != 0:
        return None
    if not struct.unpack_from("=I", buffer, _STX_MASK)[0] & _STATX_BTIME:
        return None
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, _STX_BTIME)
    return float(seconds + nanoseconds / 1e9)


#: The number of kcmp(2) (linux: arch/x86/entry/syscalls/syscall_64.tbl and, for aarch64,
#: include/uapi/asm-generic/unistd.h).
_KCMP = {"x86_64": 312, "aarch64": 272}.get(os.uname().machine)
_KCMP_VM = 1


def shares_memory(one: int, other: int) -> bool | None:
    """Whether two processes share their memory, as after vfork(); None where the kernel does not tell."""
    if _KCMP is None:
        return None
    arguments = [ctypes.c_long(number) for number in (_KCMP, one, other, _KCMP_VM, 0, 0)]
    result = _libc.syscall(*arguments)
    # Docker's seccomp profile allows it to CAP_SYS_PTRACE only.
    return None if result < 0 and ctypes.get_errno() != errno.ESRCH else bool(result == 0)
