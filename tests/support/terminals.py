"""Run hkrunner at a pseudo-terminal, as a user does: one session, a controlling terminal, Ctrl-C."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .programs import HKRUNNER, environment
from .waiting import DEADLINE_S, wait_until


class AtTerminal:
    """A command whose stderr is the terminal; so are stdin and stdout, unless the test asks for less."""

    def __init__(
        self,
        args: list[str],
        *,
        cwd: Path,
        env: Mapping[str, str | None] | None = None,
        piped: bool = False,
        typed: bool = True,
        columns: int = 200,
    ) -> None:
        """`piped`: stdout is a pipe. `typed`: stdin is the terminal, which is then the controlling one."""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.set_blocking(self._master, False)
        self._written = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end within a character
        self.process = subprocess.Popen(
            [HKRUNNER, *args],
            cwd=cwd,
            env=environment({"TERM": "dumb", **(env or {})}),
            stdin=slave if typed else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal if typed else None,
        )
        os.close(slave)
        #: A debugger at the terminal need not heed SIGTERM.
        self._end_signal = signal.SIGKILL if typed else signal.SIGTERM

    @property
    def shown(self) -> str:
        """What was written to the terminal, as far as it was read."""
        return self._written.replace("\r\n", "\n")

    def read(self) -> str:
        """Return everything that was written so far."""
        with contextlib.suppress(BlockingIOError, OSError):  # EIO: the other end was closed
            while True:
                self._written += self._decoder.decode(os.read(self._master, 65536))
        return self.shown

    def wait_for(self, text: str, *, times: int = 1, deadline_s: float = DEADLINE_S) -> None:
        """Wait until the text was shown this many times."""
        self.wait_until(lambda shown: shown.count(text) >= times, repr(text), deadline_s=deadline_s)

    def wait_until(
        self, condition: Callable[[str], object], what: str, *, deadline_s: float = DEADLINE_S
    ) -> str:
        """Wait until the condition holds for what was written; return that."""
        try:
            wait_until(lambda: bool(condition(self.read())), deadline_s=deadline_s, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the terminal has: {self.shown!r}") from None
        return self.shown

    def type(self, text: str) -> None:
        """Press these keys; \\x03 is Ctrl-C."""
        os.write(self._master, text.encode())

    def hang_up(self) -> None:
        """Close the terminal."""
        self.read()
        os.close(self._master)
        self._master = -1

    def end(self, *, deadline_s: float = DEADLINE_S) -> tuple[int, str]:
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
            self.process.send_signal(self._end_signal)
            self.process.wait(timeout=10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self._master >= 0:
            os.close(self._master)


@contextlib.contextmanager
def at_terminal(
    cwd: Path,
    *args: str,
    env: Mapping[str, str | None] | None = None,
    piped: bool = False,
    typed: bool = True,
    columns: int = 200,
) -> Iterator[AtTerminal]:
    """Run hkrunner at a terminal; on exit it has ended."""
    one = AtTerminal(list(args), cwd=cwd, env=env, piped=piped, typed=typed, columns=columns)
    try:
        yield one
    finally:
        one.close()


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
