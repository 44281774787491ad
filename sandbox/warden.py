"""The process between the parent and the child: starts it, watches it, ends its tree, accounts for it.

Theory of operation
-------------------
Three processes: parent -> warden -> child (which runs the user's code, and may start many more).

* The warden is started by file, in a session of its own, by the parent. It has one thread, no network and
  no user data. It is the subreaper of everything the child starts and has no other children, so that
  "nobody is left" is exact: waitpid() says ECHILD.
* The *lifeline* is a socketpair between parent and warden; the parent holds the only other end. Frames go
  both ways (SPAWN, KILL, TASK down; SPAWNED, SAMPLE, ENDED up). When the parent is gone, whatever ended
  it, the read gives EOF, and the warden ends the tree and itself. No PDEATHSIG on the warden: it would be
  shot before it can clean up (measured: 56 of 56 processes survived). PDEATHSIG is on the child only, for
  the day the warden itself is shot; the parent is a subreaper too and then ends the rest.
* The child's own channel and its output pipes lead straight from the parent to the child. The warden
  inherits their ends, passes them on at exec, and closes its copies.
* The end: the child has exited, or KILL came, or the lifeline broke. Then freeze, kill, reap to ECHILD
  (tree.py), ENDED to the parent, exit. ENDED is sent after the last process is gone, never before.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from . import kernel, tree
from .channel import FrameReader, Kind, encode

#: How many processes a report names; the rest are counted.
NAMED = 20
#: A process that SIGKILL does not end in this time is in the kernel's hands (state D): report it.
KILL_DEADLINE_S = 10.0


def main() -> NoReturn:
    """Run as the warden until the tree below is gone; argv: role, lifeline descriptor."""
    kernel.become_subreaper()
    with contextlib.suppress(OSError):
        kernel.hide_from_same_user()
    # The terminal's Ctrl-C and a polite TERM are the parent's business: it asks us in frames.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    Warden(socket.socket(fileno=int(sys.argv[2]))).run()
    # Nothing is buffered here; interpreter shutdown would cost milliseconds of everybody's waiting.
    os._exit(0)


class Warden:
    """One child, from SPAWN to ENDED."""

    def __init__(self, lifeline: socket.socket) -> None:
        self._lifeline = lifeline
        lifeline.setblocking(True)
        self._reader = FrameReader()
        self._pid = 0
        self._status: int | None = None
        self._usage: Any = None
        self._kill: dict[str, Any] | None = None
        # SIGCHLD only has to wake the poll; a handler must exist for the wake-up descriptor to be used.
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake = wake_read
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._poll.register(lifeline.fileno(), select.POLLIN)

    def run(self) -> None:
        """Serve until the tree is gone and the parent knows."""
        while True:
            for fd, _ in self._poll.poll(None):
                if fd == self._wake:
                    self._drain_wake()
                elif not self._receive():
                    self._end()
                    return
            if self._pid:
                tree.reap(self._reaped)
                if self._status is not None or self._kill is not None:
                    self._report(*self._end())
                    return

    def _receive(self) -> bool:
        """Take what the parent says; False when there is no parent any more."""
        try:
            data = self._lifeline.recv(65536)
        except OSError:
            return False
        if not data:
            return False
        for frame in self._reader.feed(data):
            body = json.loads(frame.body)
            if frame.kind == Kind.SPAWN:
                self._spawn(body)
            elif frame.kind == Kind.KILL:
                self._kill = body
        return True

    def _spawn(self, spec: dict[str, Any]) -> None:
        """Fork and execute the child; tells the parent its pid, or why it could not be executed."""
        fds: dict[str, int] = spec["fds"]
        keep: list[int] = [fds[name] for name in spec["keep"]]
        error_read, error_write = os.pipe2(os.O_CLOEXEC)
        me = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._become_child(spec, fds, keep, me)
            except BaseException as error:  # noqa: BLE001
                text = f"{type(error).__name__}: {error}"
                os.write(error_write, text.encode("utf-8", "replace")[:4000])
            os._exit(127)
        self._pid = pid
        os.close(error_write)
        for fd in fds.values():
            os.close(fd)
        # EOF: exec has closed the other end, so it worked.
        problem = os.read(error_read, 4096).decode("utf-8", "replace")
        os.close(error_read)
        self._send(Kind.SPAWNED, {"pid": pid, "problem": problem})

    def _become_child(self, spec: dict[str, Any], fds: dict[str, int], keep: list[int], me: int) -> None:
        """In the forked process: arrange descriptors, session and signals, then exec. Never returns."""
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
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(fds["stdout"], 1)
        os.dup2(fds["stderr"], 2)
        for fd in keep:
            os.set_inheritable(fd, True)
        os.chdir(spec["cwd"])
        kernel.die_with_parent(me)
        os.execv(spec["argv"][0], spec["argv"])

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake, 4096):
                pass

    def _reaped(self, pid: int, status: int, usage: Any) -> None:
        if pid == self._pid:
            self._status = status
            self._usage = usage

    def _wait(self, seconds: float) -> None:
        """Pass time until a child has ended, at most this long."""
        ready, _, _ = select.select([self._wake], [], [], seconds)
        if ready:
            self._drain_wake()

    def _end(self) -> tuple[dict[int, tree.Left], list[tree.Left], float]:
        """End every process that is left; return who was there, who could not be ended, seconds it took."""
        began = time.monotonic()
        there, left = tree.kill_all(reaped=self._reaped, wait=self._wait, deadline_s=KILL_DEADLINE_S)
        return there, left, time.monotonic() - began

    def _report(self, there: dict[int, tree.Left], left: list[tree.Left], took_s: float) -> None:
        largest = sorted(there.values(), key=lambda one: -one.rss_bytes)
        usage = self._usage
        self._send(
            Kind.ENDED,
            {
                "status": self._status,
                "kill": self._kill,
                "killed": [list(one) for one in largest[:NAMED]],
                "killed_count": len(there),
                "left": [list(one) for one in left[:NAMED]],
                "took_s": took_s,
                "max_rss_bytes": usage.ru_maxrss * 1024 if usage is not None else 0,
                "cpu_s": usage.ru_utime + usage.ru_stime if usage is not None else 0.0,
            },
        )

    def _send(self, kind: Kind, body: dict[str, Any]) -> None:
        # A parent that is gone is noticed at the next read; there is nobody left to tell.
        with contextlib.suppress(OSError):
            self._lifeline.sendall(encode(kind, 0, json.dumps(body).encode()))
