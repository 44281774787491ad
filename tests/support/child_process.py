"""Start a child as the warden does, with the test at the other ends of its sockets instead of the parent."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from hkrunner.sandbox.parent.warden_launch import START
from hkrunner.sandbox.shared.channel import FrameReader, fds_of, header
from hkrunner.sandbox.shared.message_format import PROTOCOL_VERSION, ProcessMessage, decode, encode
from hkrunner.sandbox.shared.messages import FROM_CHILD, Begin, Done, Loaded, Setup, Start, StillRunning

DEADLINE_S = 20.0
#: Code that returns its input.
ECHO = "def start(args, api):\n    return args['input']\n"


class ChildProcess:
    """The child's process; it ends with the `with` block, and `output` has what it prints."""

    def __init__(self, code: str, folder: Path, *, setup: dict[str, object] | None = None) -> None:
        """Start it and tell it which code to load; `setup` replaces fields of the message Setup."""
        (folder / "alg.py").write_text(code, encoding="utf-8")
        self.tasks, tasks = socket.socketpair()
        self.control, control = socket.socketpair()
        self._fault = os.memfd_create("test-fault", os.MFD_CLOEXEC)
        self._reader = FrameReader()
        self._ready: list[tuple[int, ProcessMessage]] = []
        self.still_running: list[StillRunning] = []  #: all that have come
        self._output_file = folder / "output.txt"
        fds = (tasks.fileno(), control.fileno(), self._fault)
        with tasks, control, open(self._output_file, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-u", START, "child", *map(str, fds)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=fds,
                cwd=folder,
            )
        first = Setup(PROTOCOL_VERSION, str(folder), "alg", "start", str(folder / "alg.py"), "json", [])
        self.say(0, first.replace(**(setup or {})))

    @property
    def output(self) -> str:
        """Return what it has printed so far."""
        return self._output_file.read_text(encoding="utf-8", errors="replace")

    def say(self, task: int, *messages: ProcessMessage) -> None:
        """Send these messages on the task socket."""
        self.tasks.sendall(b"".join(encode(task, one) for one in messages))

    def say_to_control(self, task: int, message: ProcessMessage) -> None:
        """Send this message on the control socket."""
        self.control.sendall(encode(task, message))

    def send_blob(self, task: int, kind: int, fd: int, size: int) -> None:
        """Send a message on the task socket whose bytes are in this memfd."""
        socket.send_fds(self.tasks, [header(kind, task, size, blob=True)], [fd])

    def next(self) -> tuple[int, ProcessMessage] | None:
        """Return the next message with the number of its task; None once the child has closed the socket."""
        deadline = time.monotonic() + DEADLINE_S
        while not self._ready:
            ready, _, _ = select.select([self.tasks], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no message within {DEADLINE_S:g} s; it printed: {self.output}"
            try:
                data, ancillary, _, _ = self.tasks.recvmsg(1 << 20, 256, socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:  # the child ended before it had read everything
                return None
            fds = fds_of(ancillary)
            if not data and not fds:
                return None
            said = [(one.task, decode(one, FROM_CHILD)) for one in self._reader.feed(data, fds)]
            # What runs between two tasks is told whenever it has changed.
            self.still_running += [one[1] for one in said if isinstance(one[1], StillRunning)]
            self._ready = [one for one in said if not isinstance(one[1], StillRunning)]
        return self._ready.pop(0)

    def loaded(self) -> Loaded:
        """Wait until the code is loaded."""
        said = self.next()
        assert said is not None and isinstance(said[1], Loaded), said
        return said[1]

    def status(self) -> int:
        """Wait until it ends; return its exit status."""
        return self.process.wait(timeout=DEADLINE_S)

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.tasks.close()
        self.control.close()
        self._reader.close()
        os.close(self._fault)


#: Starts a child with this code and these fields of Setup.
StartChild = Callable[..., ChildProcess]


def wire(value: Any = 1, **ids: str) -> bytes:
    """The worker's `initialize` with this input."""
    return json.dumps({"command": "initialize", "data": {"input": value, **ids}}).encode()


def done(value: Any) -> Done:
    text = json.dumps({"command": "done", "data": value}, separators=(",", ":"))
    return Done(text.encode())


def one_task(child: ChildProcess, number: int, value: Any = 1) -> ProcessMessage:
    """Hand over a task whole; return how it ended."""
    child.say(number, Begin(wire(value)), Start())
    said = child.next()
    assert said is not None and said[0] == number
    return said[1]
