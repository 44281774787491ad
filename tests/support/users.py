"""Run a command as a user whose number of processes the kernel limits, to bound a fork bomb.

    bounded_command([HKRUNNER, ...], tasks=300)

As root, the command runs as another user without other processes, because RLIMIT_NPROC does not apply to
root. It may read what root may read, because the interpreter may be in root's home. As any other user, the
limit is the number of the user's current processes plus `tasks`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

#: A user id that no user of the machine has. The kernel counts all processes of a user, so each of several
#: tests that run at once has one of its own.
UID = 54321 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 8, 47, 2
_CAP_DAC_READ_SEARCH = 2
_CAPABILITIES_V3 = 0x20080522


def bounded_command(command: list[str | Path], *, tasks: int) -> list[str | Path]:
    """Return a command that runs this one with a limit on the processes and threads of its user."""
    return [sys.executable, "-I", __file__, str(tasks), *command]


def give_to_bounded(folder: Path) -> None:
    """Let the limited user write to the folder."""
    if os.getuid() == 0:
        os.chown(folder, UID, UID)


def _tasks_of_mine() -> int:
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return count


def _become_nobody() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    bit = 1 << _CAP_DAC_READ_SEARCH
    data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    if libc.capset(header, data) or libc.prctl(
        _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_READ_SEARCH, 0, 0
    ):
        raise OSError(ctypes.get_errno(), "the right to read root's files could not be kept")


def main() -> None:
    most, *command = sys.argv[1:]
    if os.getuid() == 0:
        _become_nobody()
    tasks = _tasks_of_mine() + int(most)
    resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
