"""The hkrunner command that hkrunner.run() starts: its pipes, its end, and the error it ended with.

    stdin   a temporary file, one input a line         (--tasks -)
    stdout  every event, one object a line             (--output jsonl)    -> on_event
    stderr  what the algorithm prints, and errors      -> sys.stderr where there is no on_event

All of it is read in the caller's thread. Whatever ends the call early (Ctrl-C, an exception in on_event) asks
the command to shut down and waits for it; a second Ctrl-C kills the algorithm. When the caller is killed,
the kernel sends SIGTERM to the command.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Callable
from types import TracebackType
from typing import IO

from ..errors import BY_EXIT_STATUS, EntryUnusable, HkrunnerError
from ..io.standard_streams import write_to_stderr
from .begin import PROGRAM, interpreter
from .results import Incomplete, Printed, RunEvent, TaskResult, read_events

_CHUNK = 65536
#: Interval between two looks for the end of the command, where the system has no pidfds.
_POLL_S = 0.02
#: Characters of stderr that are kept: the error's sentence is at the end.
_TAIL = 65536
#: Lines of warnings that are kept: an error's sentence, and the lines of the user's below it.
_WARNINGS = 200
#: Beginnings of the line with the error that ended hkrunner: its own, click's, a load that failed.
_SENTENCES = ("hkrunner: ", "Error: ", "✘ ", "error: ")


class Command:
    """The hkrunner command, a child process. An exception in the block stops it before the block ends."""

    def __init__(
        self,
        arguments: list[str],
        stdin: IO[bytes],
        on_event: Callable[[Printed | RunEvent | TaskResult], object] | None,
        variables: IO[bytes] | None,
    ) -> None:
        self.results: list[TaskResult] = []
        self.tail = ""  #: the end of stderr, with what the algorithm printed
        self.warnings: list[str] = []  #: the last lines that are hkrunner's own for certain
        self._on_event = on_event
        self._was_left = False  #: whether an exception has ended the block
        self._object = bytearray()  #: the beginning of the next object on stdout
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._process = subprocess.Popen(
            [interpreter(), "-c", PROGRAM, str(os.getpid()), *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=(variables.fileno(),) if variables is not None else (),
            # Ctrl-C interrupts the main thread, which passes it on to the command. Any other thread does not
            # notice it: then the command stays in the terminal's process group, and gets the signal itself.
            start_new_session=threading.current_thread() is threading.main_thread(),
        )

    def __enter__(self) -> Command:
        return self

    def wait(self) -> int:
        """Pass on what comes until the command has ended; return its exit status as subprocess does."""
        process = self._process
        assert process.stdout is not None and process.stderr is not None, "both are pipes"
        pidfd = _open_pidfd(process.pid)
        pause_s = _POLL_S if pidfd is None else None
        try:
            with selectors.PollSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ, self._take_stdout)
                selector.register(process.stderr, selectors.EVENT_READ, self._take_stderr)
                if pidfd is not None:
                    selector.register(pidfd, selectors.EVENT_READ)
                ended = False
                # Once it has ended, all that it wrote is in the pipes: no end of them is waited for.
                while (ready := _ready(selector, 0 if ended else pause_s)) or not ended:
                    for key in ready:
                        data = os.read(key.fd, _CHUNK)
                        key.data(data)
                        if not data:
                            selector.unregister(key.fileobj)
                    ended = ended or process.poll() is not None
        finally:
            if pidfd is not None:
                os.close(pidfd)
        return process.wait()

    def _take_stdout(self, data: bytes) -> None:
        if self._was_left:
            return  # a piece may be missing, and the caller no longer waits
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._object += line
            if self._object.startswith(b"{"):
                for event in read_events(bytes(self._object)):
                    self._take_event(event)
            else:  # printed by what Python imports at its start: a sitecustomize, a .pth file
                self._take_stderr(bytes(self._object) + b"\n")
            self._object.clear()
        self._object += rest

    def _take_event(self, event: Printed | RunEvent | TaskResult) -> None:
        if isinstance(event, TaskResult):
            self.results.append(event)
        elif isinstance(event, Printed) and event.stream is None:
            self.warnings = [*self.warnings[-_WARNINGS:], event.line]
        if self._on_event is not None:
            self._on_event(event)

    def _take_stderr(self, data: bytes) -> None:
        text = self._decode(data, not data)
        self.tail = (self.tail + text)[-_TAIL:]
        if self._on_event is None:
            write_to_stderr(text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._was_left = kind is not None
        while self._process.returncode is None:
            interrupt = kind is None or issubclass(kind, KeyboardInterrupt)
            with contextlib.suppress(KeyboardInterrupt):  # at the second request, it kills
                self._process.send_signal(signal.SIGINT if interrupt else signal.SIGTERM)
                self.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None, "both are pipes"
            stream.close()


def _open_pidfd(pid: int) -> int | None:
    """Return a descriptor that is readable at the end of the process; None if the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # Linux before 5.3, a seccomp profile, or a Python built without it
        return None


def _ready(selector: selectors.BaseSelector, timeout_s: float | None) -> list[selectors.SelectorKey]:
    """Return the pipes that can be read, after at most this time; None: wait as long as it takes."""
    return [key for key, _ in selector.select(timeout_s) if key.data is not None]


def error_of(status: int, command: Command, count: int) -> HkrunnerError:
    """Return what to raise for a command that ended before all `count` tasks."""
    results = command.results
    kind = BY_EXIT_STATUS.get(status)
    # Where code was loaded, stderr has its prints as well, and they may look like a sentence of hkrunner's.
    own = "\n".join(command.warnings)
    sentence = _sentence(own if own and not results and kind in (None, EntryUnusable) else command.tail)
    if not results and kind is not None:
        return kind(sentence)
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    told = f": {sentence}" if sentence else ""
    return Incomplete(f"hkrunner ended {how} after {len(results)} of {count} tasks{told}", results)


def _sentence(tail: str) -> str:
    """Return the error that ended hkrunner, the last one in its output; "" for none."""
    lines = tail.rstrip().splitlines()
    for at in range(len(lines) - 1, -1, -1):
        for begin in _SENTENCES:
            if lines[at].startswith(begin):
                return "\n".join([lines[at].removeprefix(begin), *lines[at + 1 :]])
    return lines[-1] if lines else ""
