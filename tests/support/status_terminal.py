"""hkrunner with a pseudo-terminal as its stderr, for the status line at its bottom."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .programs import HKRUNNER, environment
from .waiting import wait_until

ERASE = "\r\x1b[2K"
#: Ends when there is a file `go`; says what its input says before and after.
WAITS = """
import os, time
def start(args, api):
    first, last = args["input"]
    block = bytearray(30 << 20)
    if first == "progress":
        api.progress(40, "epoch 3")
    else:
        print(first, end="", flush=True)
    end = time.monotonic() + 60
    while not os.path.exists("go") and time.monotonic() < end:
        time.sleep(0.01)
    if last:
        print(last, flush=True)
    return "it is done"
"""


class Terminal:
    """hkrunner with a terminal as its stderr."""

    def __init__(self, args: list[str], cwd: Path, env: Mapping[str, str | None], columns: int) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.set_blocking(self.master, False)
        self.text = ""
        self.process = subprocess.Popen(
            [HKRUNNER, "run", "alg.py", *args],
            cwd=cwd,
            env=environment({"TERM": "xterm", "NO_COLOR": None, **env}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def read(self) -> str:
        """Return all that was written so far."""
        with contextlib.suppress(BlockingIOError, OSError):  # EIO: the other end has gone
            while True:
                self.text += os.read(self.master, 65536).decode("utf-8", "replace")
        return self.text

    def wait_for(self, condition: Callable[[str], object], what: str) -> str:
        def holds() -> bool:
            return bool(condition(self.read()))

        try:
            wait_until(holds, deadline_s=20, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the terminal has: {self.text!r}") from None
        return self.text

    def end(self) -> tuple[int, str, str]:
        """Return exit status, stdout, and what the terminal shows in the end, line by line."""

        def ended() -> bool:
            self.read()
            return self.process.poll() is not None

        wait_until(ended, deadline_s=20, what="its end")
        assert self.process.stdout is not None
        out = self.process.stdout.read().decode()
        shown = [line.rpartition(ERASE)[2] for line in self.read().replace("\r\n", "\n").split("\n")]
        return self.process.returncode, out, "\n".join(shown)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self.master)


@contextlib.contextmanager
def terminal(
    cwd: Path,
    *args: str,
    code: str = WAITS,
    env: Mapping[str, str | None] | None = None,
    columns: int = 100,
) -> Iterator[Terminal]:
    (cwd / "alg.py").write_text(code)
    one = Terminal(list(args), cwd, env or {}, columns)
    try:
        yield one
    finally:
        one.close()


def without_colors(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
