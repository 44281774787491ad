"""Run a command on a machine that refuses what a level of the sandbox needs.

    machine_for("ns", [HKRUNNER, ...])

Made by namespaces of its own: in one, a folder of /proc is masked, as in a container, so that the kernel
refuses a new /proc; in the other one no further user namespace can be made.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x20000
_MS_REC, _MS_PRIVATE = 16384, 1 << 18


def machine_for(level: str, command: list[str | Path]) -> list[str | Path]:
    """Return a command that runs this one where `level` is the strongest that is possible."""
    return [sys.executable, "-I", __file__, level, *command]


def main() -> None:
    level, *command = sys.argv[1:]
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_USER | _NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    if level == "ns":
        for arguments in ((b"none", b"/", None, _MS_REC | _MS_PRIVATE), (b"none", b"/proc/tty", b"tmpfs", 0)):
            if libc.mount(*arguments, None):
                raise OSError(ctypes.get_errno(), "mount")
    else:
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
