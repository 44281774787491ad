"""hkrunner with a pseudo-terminal as its stderr alone, for the status line at its bottom."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from .terminals import AtTerminal, at_terminal

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


@contextlib.contextmanager
def status_terminal(
    cwd: Path,
    *args: str,
    code: str = WAITS,
    env: Mapping[str, str | None] | None = None,
    columns: int = 100,
) -> Iterator[AtTerminal]:
    """Run this code at a terminal that can erase a line."""
    (cwd / "alg.py").write_text(code)
    environ = {"TERM": "xterm", "NO_COLOR": None, **(env or {})}
    with at_terminal(
        cwd, "run", "alg.py", *args, env=environ, piped=True, typed=False, columns=columns
    ) as one:
        yield one


def left_on_screen(shown: str) -> str:
    """Return what the terminal shows in the end: of each line, what was written after it was last erased."""
    return "\n".join(line.rpartition(ERASE)[2] for line in shown.split("\n"))


def last_line(shown: str) -> str:
    """Return what was written after the last line was erased; it may be the beginning of a line."""
    return without_colors(shown.rpartition(ERASE)[2])


def without_colors(text: str) -> str:
    """Return the text without the sequences that change the color."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
