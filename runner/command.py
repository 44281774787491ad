"""The command `hkrunner`: begins the guard process of a run, then everything else is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

#: With one of these no algorithm is started, or not below a guard.
_NO_GUARD = frozenset(("-h", "--help", "--version", "--dry-run", "--in-process", "--pdb"))


def main() -> NoReturn:
    """Run the command with the arguments of this process."""
    # Only Linux has what it stands on; cli.py says so elsewhere.
    if sys.platform == "linux" and _starts_algorithm(sys.argv[1:]):
        from ..sandbox import launch

        launch.prepare()
        try:
            _run()
        finally:
            launch.discard()
    _run()


def _run() -> NoReturn:
    from .cli import main as run

    run()


def _starts_algorithm(args: Sequence[str]) -> bool:
    """As good as certain. A wrong guess costs a process of 20 ms, or as long a start."""
    if not _NO_GUARD.isdisjoint(args):
        return False
    return not args or args[0] == "run" or args[0].startswith("-") or "." in args[0] or "/" in args[0]
