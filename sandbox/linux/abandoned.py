"""Names that identify the process that made them: a later process can remove what a killed one has left.

A pid alone proves nothing: pids are reused, and a folder may be shared by containers, or by machines over a
network. So a name holds the boot id of the machine, the pid namespace, the pid, and the process's start time.
Only a process of the same boot and namespace can know that the maker has ended, and only then is it removed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat

from . import procfs
from .remove_tree import remove_tree

#: Most entries read in one folder: a temporary directory may hold any number.
ENTRIES_LOOKED_AT = 10_000


def signed_name(prefix: str, suffix: str = "") -> str:
    """Return a new name that identifies this process, where /proc allows it."""
    return f"{prefix}{_maker()}{os.urandom(4).hex()}{suffix}"


def remove_abandoned(folder: str, prefix: str, suffix: str = "", *, only_empty: bool = False) -> None:
    """Remove from the folder what ended processes of this user have left there under signed names.

    `only_empty`: folders with anything in them stay.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in itertools.islice(entries, ENTRIES_LOOKED_AT):
            name = entry.name
            if name.startswith(prefix) and name.endswith(suffix):
                maker, dash, _ = name[len(prefix) : len(name) - len(suffix)].rpartition("-")
                if dash and _has_ended(maker) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    _remove(entry.path, only_empty)


def _maker() -> str:
    """Return what identifies this process; "" where /proc is missing, or is another namespace's."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""
        return f"{_here()}-{os.getpid()}-{procfs.stat(os.getpid()).started}-"
    except OSError:
        return ""


def _here() -> str:
    """Return what identifies this boot and this pid namespace; OSError when /proc does not tell."""
    boot = procfs.read("/proc/sys/kernel/random/boot_id").decode()
    return f"{boot.replace('-', '')[:16]}-{os.stat('/proc/self/ns/pid').st_ino}"


def _has_ended(maker: str) -> bool:
    """Whether the process that made the name has certainly ended; False for another machine's or boot's."""
    here, pid, started = [*maker.rsplit("-", 2), "", ""][:3]
    if not (pid.isdecimal() and started.isdecimal() and _maker() and here == _here()):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    try:
        return procfs.stat(int(pid)).started != int(started)
    except OSError:
        return False


def _remove(path: str, only_empty: bool) -> None:
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        try:
            os.rmdir(path)
        except OSError:
            if not only_empty:
                remove_tree(path)
