"""The steps between fork and exec, by which a forked process becomes the child."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from ..linux import kernel
from ..shared.messages import Spawn
from .confinement import Confinement


def become_child(
    spec: Spawn, fds: dict[str, int], keep: list[int], *, warden_pid: int, confinement: Confinement
) -> NoReturn:
    """Arrange descriptors, session and signals, then execute the child. Raises OSError."""
    os.setsid()
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGCHLD,
        signal.SIGPIPE,
        signal.SIGXFSZ,
    ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # name_watch.py blocks SIGIO in the warden
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(fds["stdout"], 1)
    os.dup2(fds["stderr"], 2)
    for fd in fds.values():
        os.set_inheritable(fd, fd in keep)
    os.chdir(spec.cwd)
    confinement.enter()
    kernel.die_with_parent(warden_pid)
    argv = [*spec.argv, *map(str, keep)]
    os.execve(argv[0], argv, spec.env)
