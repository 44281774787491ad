"""The child's main: takes its channel out of the user's reach, loads the entry, serves task after task.

Theory of operation
-------------------
The main thread reads the *task socket* and runs the user's init and start (task_server.py): signals, plotting
and deep-learning libraries want the main thread. The control thread reads the *control socket*, so a stop is
heard while start() runs; the user's stop() has a thread of its own (stop_control.py). Everything goes back
over the task socket, whole frames under one lock (frame_socket.py). What is said is in shared/messages.py.

Descriptors: 0 is empty, 1 and 2 are pipes to the parent, the two sockets and the file for faulthandler
are moved above 100 and closed on exec, so programs started by the user never see them. A process that
the user's code forks does have them: it never writes, because every frame checks the pid.

The order at the end of a task: the user's output is flushed, the result is kept in the task's folder,
then Done or Failed goes out. No time limit of a task is enforced here: the parent has the timers, and kills.

Runs on Python 3.8 and newer; imports the standard library and our own few modules only.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import socket
import sys
from typing import Any, FrozenSet, NoReturn, Optional

from ..shared.channel import LAST_STACK_SIGNAL, STACK_SIGNAL
from .frame_socket import FrameSocket, move_high, receive_setup
from .memory_reserve import notice_lost_threads, report_threads_without_memory
from .task_server import TaskServer


def main(bare: FrozenSet[str], collects: bool) -> NoReturn:
    """Run as the child; argv: role, task socket, control socket, file for faulthandler's stacks, and the pipe
    in which to report folders of shared memory, if there is one.

    `bare`: the modules that the interpreter came up with. `collects`: whether garbage is collected once our
    own modules are imported, as when the interpreter came up.
    """
    tasks, control, fault = (move_high(int(number)) for number in sys.argv[2:5])
    faulthandler.enable(fault, all_threads=True)
    faulthandler.register(STACK_SIGNAL, fault, all_threads=True, chain=False)
    # Chained to the signal's default action, which ends the process.
    faulthandler.register(LAST_STACK_SIGNAL, fault, all_threads=True, chain=True)
    for number in sys.argv[5:6]:
        report_made_folders(move_high(int(number)))
    notice_lost_threads()
    channel = FrameSocket(tasks)
    setup = receive_setup(channel)
    if setup is None:
        sys.exit(0)
    if setup.is_pooled:
        from .pool_task_server import PoolTaskServer

        server: TaskServer = PoolTaskServer(channel, socket.socket(fileno=control), setup, fault)
    else:
        server = TaskServer(channel, socket.socket(fileno=control), setup)
    report_threads_without_memory(server.reserve, server.thread_lost)
    # As for a script: an argparse of the user's must not meet our arguments.
    sys.argv[:] = [server.program]
    if collects:
        gc.enable()
    server.run(bare)


def report_made_folders(fd: int) -> None:
    """Have os.mkdir() report folders of shared memory to this descriptor, a pipe that never blocks.

    A file shows by being open or mapped whose it is; nobody could say later who has made an empty folder. So
    device, inode and path of each one on the file system of /dev/shm go to the warden, also from processes
    that the user's code forks.
    """
    try:
        device = os.stat("/dev/shm").st_dev
    except OSError:
        return
    pipe = os.fstat(fd).st_ino
    make = os.mkdir

    def mkdir(path: Any, mode: int = 0o777, *, dir_fd: Optional[int] = None) -> None:
        make(path, mode, dir_fd=dir_fd)
        try:
            made = os.lstat(path) if dir_fd is None else os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
            # The user's code may have closed the descriptor, and have another file under its number.
            if made.st_dev == device and os.fstat(fd).st_ino == pipe:
                where = os.fsencode(os.path.abspath(path)) if dir_fd is None else b""
                os.write(fd, b"%d %d %s\0" % (made.st_dev, made.st_ino, where))
        except (OSError, ValueError):  # it is gone again, the pipe is full, or the warden has ended
            pass

    mkdir.__module__, mkdir.__qualname__, mkdir.__doc__ = "os", "mkdir", make.__doc__
    os.supports_dir_fd.add(mkdir)
    os.mkdir = mkdir
