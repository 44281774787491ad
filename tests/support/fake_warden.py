"""A warden and a child without processes: the test acts for them at the other ends of a handle's sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hkrunner.runner.io.loop import Loop
from hkrunner.sandbox.linux import kernel, process_tree
from hkrunner.sandbox.parent import warden_launch
from hkrunner.sandbox.parent.child_handle import Child
from hkrunner.sandbox.parent.warded_child import WardedChild
from hkrunner.sandbox.shared.channel import Frame, FrameReader, fds_of
from hkrunner.sandbox.shared.limits import Limits
from hkrunner.sandbox.shared.message_format import PROTOCOL_VERSION, ProcessMessage, decode, encode
from hkrunner.sandbox.shared.messages import (
    TO_CHILD,
    TO_CONTROL,
    TO_WARDEN,
    Account,
    Ended,
    Loaded,
    Protection,
    Sample,
    Setup,
    Spawn,
    Spawned,
)
from hkrunner.sandbox.shared.outcome import Exit

from .clock import Clock

#: The pid of the child; not one of a real process, because Linux has at most 2**22.
PID = 2**23
SETUP = Setup(PROTOCOL_VERSION, "/code", "main", "start", "/code/main.py", "json", [])
SPAWNED = Spawned(PROTOCOL_VERSION, PID, "", Protection("limits: none", "sampling", False))
LOADED = Loaded(PROTOCOL_VERSION, ["start"], "3.12.1", {})
ACCOUNT = Account(1000, 0, 0.5, False, False, [], 0, [], 0)


@dataclass
class Recorder:
    """A listener that records its calls."""

    messages: list[tuple[int, ProcessMessage]] = field(default_factory=list)
    output: dict[str, bytes] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)
    endings: int = 0
    #: What the handle knew about the process at its first call.
    pid_at_first: int | None = None

    def on_message(self, child: Child, task: int, message: ProcessMessage) -> None:
        if self.pid_at_first is None:
            self.pid_at_first = child.pid
        self.messages.append((task, message))

    def on_output(self, child: Child, stream: str, data: bytes) -> None:
        self.output[stream] = self.output.get(stream, b"") + data

    def on_sample(self, child: Child, sample: Sample) -> None:
        self.samples.append(sample)

    def on_ending(self, child: Child) -> None:
        self.endings += 1

    def on_exit(self, child: Child, exit: Exit) -> None:
        self.exits.append(exit)


class _Process:
    """The part of subprocess.Popen that the handle uses."""

    pid = PID + 1

    def __init__(self) -> None:
        self.was_killed = False
        self.was_reaped = False

    def poll(self) -> int | None:
        return 0 if self.was_reaped else None

    def kill(self) -> None:
        self.was_killed = True

    def wait(self) -> int:
        self.was_reaped = True
        return 0


class FakeWarden:
    """The warden and the child of one handle, and the handle itself."""

    def __init__(self, patch: pytest.MonkeyPatch, *, limits: Limits | None = None, **more: Any) -> None:
        """Make the handle; `more` are arguments of WardedChild."""
        self.clock = Clock()
        self.loop = Loop(clock=self.clock)
        self.seen = Recorder()
        self.process = _Process()
        ours, self._lifeline = socket.socketpair()
        launched = warden_launch.WaitingWarden(self.process, ours)  # type: ignore[arg-type]
        # Do not touch real child processes: they belong to other tests.
        patch.setattr(kernel, "become_subreaper", lambda: None)
        patch.setattr(process_tree, "freeze", lambda root, **more: {})
        patch.setattr(process_tree, "children", lambda pid: [])
        patch.setattr(warden_launch, "take", lambda: launched)
        arguments: dict[str, Any] = {"argv": ["python"], "cwd": "/code", "env": {}, "setup": SETUP, **more}
        self.child = WardedChild(self.loop, self.seen, limits=limits or Limits(), **arguments)
        self._from_parent = FrameReader()
        self._readers: dict[int, FrameReader] = {}
        self._fds: list[int] = []
        self.told: list[ProcessMessage] = []  #: messages to the warden
        self.tasks = self.control = self._lifeline  # until Spawn is read
        self.streams: dict[str, int] = {}
        self._read_spawn()

    def _read_spawn(self) -> None:
        data, ancillary, _, _ = self._lifeline.recvmsg(1 << 20, 256, socket.MSG_CMSG_CLOEXEC)
        fds = fds_of(ancillary)
        self.told = [decode(frame, TO_WARDEN) for frame in self._from_parent.feed(data)]
        if not self.told:
            return
        spawn = self.told[0]
        assert isinstance(spawn, Spawn), "the first message"
        named = dict(zip(spawn.fds, fds, strict=True))
        self.tasks = socket.socket(fileno=named.pop("tasks"))
        self.control = socket.socket(fileno=named.pop("control"))
        self._fds = list(named.values())
        self.streams = named

    # ---- as the warden

    def say(self, *messages: ProcessMessage) -> None:
        """Send these messages on the lifeline, the warden's socket to the parent."""
        self._lifeline.sendall(b"".join(encode(0, one) for one in messages))

    def heard(self) -> list[ProcessMessage]:
        """Return the messages to the warden since the last call."""
        self._lifeline.setblocking(False)
        try:
            data = self._lifeline.recv(1 << 20)
        except BlockingIOError:
            return []
        found = [decode(frame, TO_WARDEN) for frame in self._from_parent.feed(data)]
        self.told += found
        return found

    def hang_up(self) -> None:
        """End without a message."""
        self._lifeline.close()

    def end(self, status: int | None = 0, **more: Any) -> None:
        """Report that the child has ended with this wait status."""
        told: dict[str, Any] = {
            "was_killed": False, "broken": None, "others": [], "others_count": 0, "left": [],
            "max_rss_bytes": 0, "account": ACCOUNT, **more,
        }  # fmt: skip
        self.say(Ended(status=status, **told))

    # ---- as the child

    def answer(self, task: int, *messages: ProcessMessage) -> None:
        """Send these messages on the task socket."""
        self.tasks.sendall(b"".join(encode(task, one) for one in messages))

    def print(self, stream: str, text: bytes) -> None:
        """Write this to the child's stdout or stderr."""
        os.write(self.streams[stream], text)

    def got(self, sock: socket.socket) -> list[tuple[int, ProcessMessage]]:
        """Return the messages that the child has received on its task or control socket."""
        known = TO_CHILD if sock is self.tasks else TO_CONTROL
        return [(frame.task, decode(frame, known)) for frame in self.frames(sock)]

    def frames(self, sock: socket.socket) -> Sequence[Frame]:
        """Return the frames that have arrived on one of the child's sockets."""
        reader = self._readers.setdefault(sock.fileno(), FrameReader())
        sock.setblocking(False)
        found: list[Frame] = []
        while True:
            try:
                data, ancillary, _, _ = sock.recvmsg(1 << 20, 256, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return found
            if not data:
                return found
            found += reader.feed(data, fds_of(ancillary))

    # ----

    def turn(self, times: int = 4) -> None:
        """Let the parent's loop handle ready sockets and due timers."""
        for _ in range(times):
            self.loop.turn(0)

    def after(self, seconds: float) -> None:
        """Advance the clock, and run what is due."""
        self.clock.now += seconds
        self.turn()

    def until_gone(self) -> None:
        """Let the parent kill what a lost warden has left, which takes several turns of the loop."""
        for _ in range(200):
            self.after(0.01)
            if self.seen.exits:
                return
        raise AssertionError("its end was never told")

    def close(self) -> None:
        """End the child if the test has not done so, and close everything."""
        if not self.seen.exits:
            self.hang_up()
            self.until_gone()
        for sock in {self._lifeline, self.tasks, self.control}:
            sock.close()
        for fd in self._fds:
            os.close(fd)
        self.loop.close()


#: Starts a warden whose child gets these arguments of FakeWarden.
StartWarden = Callable[..., FakeWarden]
