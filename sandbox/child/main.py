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

import contextlib
import faulthandler
import functools
import gc
import os
import socket
import sys
from typing import Any, Callable, Dict, FrozenSet, List, NoReturn, Set, Tuple

from ..shared.channel import LAST_STACK_SIGNAL, STACK_SIGNAL
from .frame_socket import FrameSocket, move_high, receive_setup
from .memory_reserve import notice_lost_threads, report_threads_without_memory
from .task_server import TaskServer

#: Where shared memory has names.
SHARED_MEMORY = "/dev/shm"
#: Most names of its files that are remembered here.
NAMES_KEPT = 10_000
_NEW = os.O_CREAT | os.O_EXCL
_WRITES = os.O_CREAT | os.O_WRONLY | os.O_RDWR


def main(bare: FrozenSet[str], collects: bool) -> NoReturn:
    """Run as the child; argv: role, task socket, control socket, file for faulthandler's stacks, and the pipe
    in which to report what it makes of shared memory, if there is one.

    `bare`: the modules that the interpreter came up with. `collects`: whether garbage is collected once our
    own modules are imported, as when the interpreter came up.
    """
    tasks, control, fault = (move_high(int(number)) for number in sys.argv[2:5])
    faulthandler.enable(fault, all_threads=True)
    faulthandler.register(STACK_SIGNAL, fault, all_threads=True, chain=False)
    # Chained to the signal's default action, which ends the process.
    faulthandler.register(LAST_STACK_SIGNAL, fault, all_threads=True, chain=True)
    for number in sys.argv[5:6]:
        report_shared_memory(move_high(int(number)))
    try:
        server = _server(tasks, control, fault)
    except (MemoryError, SystemError):  # see start.py
        os._exit(1)  # the warden knows of the limit, which leaves no room for any code of the user's
    # As for a script: an argparse of the user's must not meet our arguments.
    sys.argv[:] = [server.program]
    if collects:
        gc.enable()
    server.run(bare)


def _server(tasks: int, control: int, fault: int) -> TaskServer:
    channel = FrameSocket(tasks)
    setup = receive_setup(channel)
    if setup is None:
        sys.exit(0)
    notice_lost_threads(stacks_count=setup.brake_bytes is not None)
    if setup.is_pooled:
        from .pool_task_server import PoolTaskServer

        server: TaskServer = PoolTaskServer(channel, socket.socket(fileno=control), setup, fault)
    else:
        server = TaskServer(channel, socket.socket(fileno=control), setup)
    report_threads_without_memory(server.reserve, server.thread_lost)
    return server


def report_shared_memory(fd: int) -> None:
    """Have what Python code makes below /dev/shm reported to this descriptor, a pipe that never blocks.

    A file shows by being open or mapped whose it is. Nobody could say later who has made a folder, a pipe or
    a link, or a file that is closed again within 0.1 ms. So device, inode and path of the former, and of a
    file that os.open() made with O_EXCL, as tempfile does, go to the warden once they are made, and the path
    of another new file, as b"- - PATH", just before it is; also from processes that the user's code forks.
    b"PID=DEVICE INODE" says that a file which is opened for writing was there: to hold it proves nothing.
    """
    try:
        device = os.stat(SHARED_MEMORY).st_dev
    except OSError:
        return
    pipe = os.fstat(fd).st_ino
    below = SHARED_MEMORY + "/"
    made: Set[str] = set()  # files that were reported, and may be renamed before the warden looks
    opened: Set[Tuple[int, str]] = set()  # files that need no report any more, by process

    def report(facts: bytes, path: bytes) -> None:
        # The user's code may have closed the descriptor, and have another file under its number.
        if os.fstat(fd).st_ino == pipe:
            os.write(fd, b"%s %s\0" % (facts, path))

    def announce(path: str) -> None:
        if path.startswith(below) and not os.path.lexists(path):
            report(b"- -", os.fsencode(path))
            if len(made) < NAMES_KEPT:
                made.add(path)

    def opens(path: str, flags: int) -> None:
        """A file below SHARED_MEMORY is about to be opened for writing."""
        this = os.getpid(), path
        if path in made or this in opened:
            return
        is_there = os.path.isfile(path)
        if is_there and flags & _NEW != _NEW:
            facts = os.stat(path)
            report(b"%d=%d %d" % (this[0], facts.st_dev, facts.st_ino), b"")
        if (is_there or flags & _NEW == _NEW) and len(opened) < NAMES_KEPT:
            opened.add(this)
        elif flags & _NEW == os.O_CREAT:
            announce(path)

    def hook(event: str, args: Tuple[Any, ...]) -> None:
        if event == "open" and len(args) == 3 and type(args[2]) is int and args[2] & _WRITES:
            with contextlib.suppress(OSError, ValueError):
                path = _absolute(args[0])
                if path.startswith(below):
                    opens(path, args[2])
        elif event == "socket.bind" and len(args) == 2 and isinstance(args[1], (str, bytes)):
            with contextlib.suppress(OSError, ValueError):
                announce(_absolute(args[1]))
        elif event == "os.rename" and made:
            with contextlib.suppress(OSError, ValueError):
                if _absolute(args[0]) in made:
                    facts = os.lstat(args[0])
                    report(b"%d %d" % (facts.st_dev, facts.st_ino), os.fsencode(_absolute(args[1])))

        elif event == "import" and "_posixshmem" in sys.modules and not has_shm_open:
            has_shm_open.append(True)
            watch_shm_open(sys.modules["_posixshmem"])

    has_shm_open: List[bool] = []

    def watch_shm_open(module: Any) -> None:
        """Report what multiprocessing.shared_memory makes and attaches to, in C and without an event."""
        make = module.shm_open

        def shm_open(path: str, flags: int, mode: int = 0o777) -> int:
            name = below + path.lstrip("/")
            with contextlib.suppress(OSError, ValueError):
                opens(name, flags)
            fd: int = make(path, flags, mode=mode)
            with contextlib.suppress(OSError, ValueError):
                if flags & _NEW == _NEW:
                    facts = os.fstat(fd)
                    report(b"%d %d" % (facts.st_dev, facts.st_ino), os.fsencode(name))
            return fd

        module.shm_open = shm_open

    def reporting(make: Callable[..., Any], position: int, name: str) -> _Reporting:
        def tell(args: Tuple[Any, ...], more: Dict[str, Any]) -> None:
            if make is real_open:
                flags = more["flags"] if "flags" in more else args[1]
                if flags & _NEW != _NEW:
                    return
            path, dir_fd = more[name] if name in more else args[position], more.get("dir_fd")
            try:
                facts = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
                if facts.st_dev == device:
                    where = b"" if dir_fd is not None else os.fsencode(os.path.abspath(path))
                    report(b"%d %d" % (facts.st_dev, facts.st_ino), where)
                    if make is real_open and len(made) < NAMES_KEPT:
                        made.add(os.fsdecode(where))
            except (OSError, ValueError):  # it is gone again, the pipe is full, or the warden has ended
                pass

        reported = _Reporting(make, tell)
        os.supports_dir_fd.add(reported)
        return reported

    real_open = os.open
    os.open = reporting(os.open, 0, "path")
    os.mkdir = reporting(os.mkdir, 0, "path")
    os.mkfifo = reporting(os.mkfifo, 0, "path")
    os.symlink = reporting(os.symlink, 1, "dst")
    sys.addaudithook(hook)


class _Reporting:
    """Calls a function of `os`, then `tell` with its arguments.

    No function: as an attribute of a class it would be bound, which a builtin is not; pathlib has os.mkdir as
    one up to Python 3.10.
    """

    def __init__(
        self, make: Callable[..., Any], tell: Callable[[Tuple[Any, ...], Dict[str, Any]], None]
    ) -> None:
        self._make = make
        self._tell = tell
        functools.update_wrapper(self, make)
        self.__module__ = "os"  # for pickle

    def __call__(self, *args: Any, **more: Any) -> Any:
        result = self._make(*args, **more)
        self._tell(args, more)
        return result

    def __reduce__(self) -> str:
        return str(self._make.__name__)


def _absolute(path: object) -> str:
    """Return the path, absolute; "" for what is none, as a descriptor. Raises OSError, ValueError."""
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str):
        return ""
    return path if path.startswith("/") else os.path.join(os.getcwd(), path)
