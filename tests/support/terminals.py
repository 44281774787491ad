"""Run hkrunner at a pseudo-terminal, as a user does: one session, a controlling terminal, Ctrl-C."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path

from .programs import HKRUNNER, environment
from .waiting import wait_until


class AtTerminal:
    """A command whose stdin and stderr are the terminal; so is stdout unless it is piped."""

    def __init__(
        self, args: list[str], *, cwd: Path, env: Mapping[str, str | None] | None = None, piped: bool = False
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
        os.set_blocking(self._master, False)
        self.shown = ""
        self.process = subprocess.Popen(
            [HKRUNNER, *args],
            cwd=cwd,
            env=environment({"TERM": "dumb", **(env or {})}),
            stdin=slave,
            stdout=subprocess.PIPE if piped else slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)

    def read(self) -> str:
        """Return everything that was shown so far."""
        with contextlib.suppress(BlockingIOError, OSError):  # EIO: the other end was closed
            while True:
                self.shown += os.read(self._master, 65536).decode("utf-8", "replace").replace("\r\n", "\n")
        return self.shown

    def wait_for(self, text: str, *, times: int = 1, deadline_s: float = 20.0) -> None:
        """Wait until the text was shown this many times."""
        try:
            wait_until(lambda: self.read().count(text) >= times, deadline_s=deadline_s, what=repr(text))
        except AssertionError as error:
            raise AssertionError(f"{error}; the terminal has: {self.shown}") from None

    def type(self, text: str) -> None:
        """Press these keys; \\x03 is Ctrl-C."""
        os.write(self._master, text.encode())

    def hang_up(self) -> None:
        """Close the terminal."""
        self.read()
        os.close(self._master)
        self._master = -1

    def end(self, *, deadline_s: float = 20.0) -> tuple[int, str]:
        """Wait for the end; return the exit status and the content of a piped stdout."""

        def ended() -> bool:
            if self._master >= 0:
                self.read()
            return self.process.poll() is not None

        try:
            wait_until(ended, deadline_s=deadline_s, what="its end")
        except AssertionError as error:
            raise AssertionError(f"{error}; the terminal has: {self.shown}") from None
        if self._master >= 0:
            self.read()
        out = self.process.stdout.read().decode() if self.process.stdout is not None else ""
        return self.process.returncode, out

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(timeout=10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self._master >= 0:
            os.close(self._master)


@contextlib.contextmanager
def at_terminal(
    cwd: Path, *args: str, env: Mapping[str, str | None] | None = None, piped: bool = False
) -> Iterator[AtTerminal]:
    """Run hkrunner at a terminal; on exit it has ended."""
    one = AtTerminal(list(args), cwd=cwd, env=env, piped=piped)
    try:
        yield one
    finally:
        one.close()


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
