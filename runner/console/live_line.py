"""Shows on stderr what takes its time, as an installation does, where no run and no Output exist."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from ..settings.settings import Console
from .status_line import can_be_drawn, columns
from .terminal import plain

_ERASE = "\r\x1b[2K"


class LiveLine:
    """A line when it begins and one when it is done; on a terminal, the latest line meanwhile."""

    def __init__(self, console: Console) -> None:
        self._quiet = console.quiet
        self._verbose = console.verbose
        self._is_live = not console.quiet and can_be_drawn(os.environ)
        self._began = time.monotonic()

    def begin(self, text: str) -> None:
        """Print what is done from now on, unless --quiet."""
        self._began = time.monotonic()
        self._print(f"◌ {text}")

    def line(self, text: str) -> None:
        """Draw the latest line; with --verbose, print each."""
        if self._verbose:
            self._print(f"  {text}")
        elif self._is_live:
            self._write(_ERASE + f"  {text}"[: columns()])

    def end(self, text: str) -> None:
        """Remove the latest line; print the text and how long it took, unless it is empty."""
        if self._is_live:
            self._write(_ERASE)
        if text:
            self._print(f"✔ {text} ({time.monotonic() - self._began:.1f} s)")

    def _print(self, text: str) -> None:
        if not self._quiet:
            self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        encoding = (sys.stderr.encoding if sys.stderr is not None else None) or "utf-8"
        with contextlib.suppress(OSError):  # a closed stderr does not end the run
            os.write(2, plain(text, encoding).encode(encoding, "backslashreplace"))
