"""What a check of `hkrunner doctor` is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line; `remedy` is empty if there is nothing to do."""

    name: str
    ok: bool
    text: str
    remedy: str = ""
    needed: bool = False

    def line(self) -> str:
        """Return the line for the terminal."""
        mark = "✔" if self.ok else "✘" if self.needed else "◌"
        return f"{mark} {self.name}: {self.text}" + (f" → {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Machine:
    """The machine that is checked; tests pass another one."""

    environ: Mapping[str, str]
    state_dir: str
    root: str = "/"


Check = Callable[[Machine], Iterator[Finding]]
