"""For the programs beside it: finds the runner's sockets among the descriptors."""

import os
import stat


def sockets():
    """The task socket first, then the control socket."""
    found = []
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                found.append(int(name))
        except OSError:
            pass
    return found
