"""Run a command on a machine that refuses what a level of the sandbox needs, or that knows more names.

    machine_for("ns", [HKRUNNER, ...], hosts=Path(...))

Made by namespaces of its own: in one, a folder of /proc is masked, as in a container, so that the kernel
refuses a new /proc; in the other one no further user namespace can be made.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18


def machine_for(level: str, command: list[str | Path], *, hosts: Path | None = None) -> list[str | Path]:
    """Return a command that runs this one where `level` is the strongest that is possible.

    `hosts`: the hosts file there; None: the one of this machine.
    """
    return [sys.executable, "-I", __file__, level, hosts or "", *command]


def main() -> None:
    level, hosts, *command = sys.argv[1:]
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_USER | _NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    mounts: list[tuple[bytes, bytes, bytes | None, int]] = [(b"none", b"/", None, _MS_REC | _MS_PRIVATE)]
    if hosts:
        mounts.append((os.fsencode(hosts), b"/etc/hosts", None, _MS_BIND))
    if level == "ns":
        mounts.append((b"none", b"/proc/tty", b"tmpfs", 0))
    for arguments in mounts:
        if libc.mount(*arguments, None):
            raise OSError(ctypes.get_errno(), "mount")
    if level == "landlock":
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
