"""Reports to the warden what Python code of this process, and of its forks, makes below /dev/shm.

A file shows by being open or mapped whose it is. Nobody could say later who has made a folder, a pipe or a
link, or a file that is closed again within 0.1 ms. So these are reported, each with a zero at its end:

    b"DEVICE INODE PATH"  once it is made: a folder, a pipe or a link, or a file that os.open() made with
                          O_EXCL, as tempfile does; also multiprocessing's temporary folder, wherever it is
    b"- - PATH"           just before it is made: another new file
    b"PID=DEVICE INODE "  a file that is opened for writing was there: to hold it proves nothing

Python 3.8 and newer.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from typing import Any, Callable, Dict, Set, Tuple

#: Where shared memory has names.
SHARED_MEMORY = "/dev/shm"
#: Most names of its files that are remembered here.
NAMES_KEPT = 10_000
#: How the names of multiprocessing's temporary folders begin: it removes them, unless it is killed.
TEMPORARY = b"pymp-"
_BELOW = SHARED_MEMORY + "/"
_NEW = os.O_CREAT | os.O_EXCL
_WRITES = os.O_CREAT | os.O_WRONLY | os.O_RDWR


def report_shared_memory(fd: int) -> None:
    """Have all of it reported to this descriptor, a pipe that never blocks, from here on."""
    try:
        device = os.stat(SHARED_MEMORY).st_dev
    except OSError:
        return
    SharedMemoryReports(fd, device).begin()


class SharedMemoryReports:
    """What this process has reported. A full pipe or a file that is gone again is no error of the user's."""

    def __init__(self, fd: int, device: int) -> None:
        self._fd = fd
        self._device = device  #: of SHARED_MEMORY
        self._pipe = os.fstat(fd).st_ino
        #: Files that were reported, and may be renamed before the warden looks.
        self._made: Set[str] = set()
        #: Files that need no report any more, each with the process that has opened it.
        self._opened: Set[Tuple[int, str]] = set()
        self._watches_shm_open = False

    def begin(self) -> None:
        """Watch the functions of `os`, and the interpreter's audit events."""
        self._watch("open", self._after_open)
        for name, position, parameter in (("mkdir", 0, "path"), ("mkfifo", 0, "path"), ("symlink", 1, "dst")):
            self._watch(name, functools.partial(self._after_making, position, parameter))
        sys.addaudithook(self._on_event)

    def _report(self, facts: bytes, path: bytes) -> None:
        # The user's code may have closed the descriptor, and have another file under its number.
        if os.fstat(self._fd).st_ino == self._pipe:
            os.write(self._fd, b"%s %s\0" % (facts, path))

    def _report_made(self, facts: os.stat_result, path: bytes) -> None:
        self._report(b"%d %d" % (facts.st_dev, facts.st_ino), path)

    # ---- before a file is there: audit events

    def _on_event(self, event: str, args: Tuple[Any, ...]) -> None:
        if event == "open" and len(args) == 3 and type(args[2]) is int and args[2] & _WRITES:
            with contextlib.suppress(OSError, ValueError):
                path = _absolute(args[0])
                if path.startswith(_BELOW):
                    self._opens(path, args[2])
        elif event == "socket.bind" and len(args) == 2 and isinstance(args[1], (str, bytes)):
            with contextlib.suppress(OSError, ValueError):
                self._announce(_absolute(args[1]))
        elif event == "os.rename" and self._made:
            with contextlib.suppress(OSError, ValueError):
                if _absolute(args[0]) in self._made:
                    self._report_made(os.lstat(args[0]), os.fsencode(_absolute(args[1])))
        elif event == "import" and "_posixshmem" in sys.modules and not self._watches_shm_open:
            self._watches_shm_open = True
            self._watch_shm_open(sys.modules["_posixshmem"])

    def _opens(self, path: str, flags: int) -> None:
        """A file below SHARED_MEMORY is about to be opened for writing."""
        this = os.getpid(), path
        if path in self._made or this in self._opened:
            return
        is_there = os.path.isfile(path)
        if is_there and flags & _NEW != _NEW:
            facts = os.stat(path)
            self._report(b"%d=%d %d" % (this[0], facts.st_dev, facts.st_ino), b"")
        if (is_there or flags & _NEW == _NEW) and len(self._opened) < NAMES_KEPT:
            self._opened.add(this)
        elif flags & _NEW == os.O_CREAT:
            self._announce(path)

    def _announce(self, path: str) -> None:
        if path.startswith(_BELOW) and not os.path.lexists(path):
            self._report(b"- -", os.fsencode(path))
            self._remember(path)

    def _remember(self, path: str) -> None:
        if len(self._made) < NAMES_KEPT:
            self._made.add(path)

    def _watch_shm_open(self, module: Any) -> None:
        """Report what multiprocessing.shared_memory makes and attaches to, in C and without an event."""
        make = module.shm_open

        def shm_open(path: str, flags: int, mode: int = 0o777) -> int:
            name = _BELOW + path.lstrip("/")
            with contextlib.suppress(OSError, ValueError):
                self._opens(name, flags)
            fd: int = make(path, flags, mode=mode)
            with contextlib.suppress(OSError, ValueError):
                if flags & _NEW == _NEW:
                    self._report_made(os.fstat(fd), os.fsencode(name))
            return fd

        module.shm_open = shm_open

    # ---- once something is there: functions of `os`

    def _watch(self, name: str, after: Callable[[Tuple[Any, ...], Dict[str, Any]], None]) -> None:
        """Have `after` called with the arguments of each call of this function that has succeeded."""
        watched = _Watched(getattr(os, name), after)
        os.supports_dir_fd.add(watched)
        setattr(os, name, watched)

    def _after_open(self, args: Tuple[Any, ...], more: Dict[str, Any]) -> None:
        flags = more["flags"] if "flags" in more else args[1]
        if flags & _NEW == _NEW:
            self._after_making(0, "path", args, more, is_file=True)

    def _after_making(
        self,
        position: int,
        parameter: str,
        args: Tuple[Any, ...],
        more: Dict[str, Any],
        *,
        is_file: bool = False,
    ) -> None:
        """Report what such a call has made: its path is at this position, or has this name."""
        path = more[parameter] if parameter in more else args[position]
        dir_fd = more.get("dir_fd")
        with contextlib.suppress(OSError, ValueError):
            facts = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
            is_temporary = dir_fd is None and os.path.basename(os.fsencode(path)).startswith(TEMPORARY)
            if facts.st_dev == self._device or is_temporary:
                # Not for other files: in a folder deeper than a path can name, it takes a second.
                where = b"" if dir_fd is not None else os.fsencode(os.path.abspath(path))
                self._report_made(facts, where)
                if is_file:
                    self._remember(os.fsdecode(where))


class _Watched:
    """Calls a function of `os`, then `after` with its arguments.

    No function: as an attribute of a class it would be bound, which a builtin is not; pathlib has os.mkdir as
    one up to Python 3.10.
    """

    def __init__(
        self, function: Callable[..., Any], after: Callable[[Tuple[Any, ...], Dict[str, Any]], None]
    ) -> None:
        self._function = function
        self._after = after
        functools.update_wrapper(self, function)
        self.__module__ = "os"  # for pickle

    def __call__(self, *args: Any, **more: Any) -> Any:
        result = self._function(*args, **more)
        self._after(args, more)
        return result

    def __reduce__(self) -> str:
        return str(self._function.__name__)


def _absolute(path: object) -> str:
    """Return the path, absolute; "" for what is none, as a descriptor. Raises OSError, ValueError."""
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str):
        return ""
    return path if path.startswith("/") else os.path.join(os.getcwd(), path)
