"""The command `hkrunner`: begins the guard process of a run, then everything else is imported."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .io.standard_streams import fill_standard_streams

#: With one of these no algorithm is started, or not below a guard.
_NO_GUARD = frozenset(("-h", "--help", "--version", "--dry-run", "--in-process", "--pdb"))


def main() -> NoReturn:
    """Run the command with the arguments of this process."""
    # Only Linux has what it stands on; cli.py says so elsewhere.
    if sys.platform == "linux" and _starts_algorithm(sys.argv[1:]):
        gc.disable()  # until main.settle(): nothing of an import is garbage
        fill_standard_streams()  # before a socket of ours can take the place of one
        from ..sandbox.parent import warden_launch

        warden_launch.prepare()
        try:
            _run()
        except SystemExit as end:
            _leave(end)
        except KeyboardInterrupt:  # before there is a loop that hears it
            _leave(SystemExit(130))
        finally:
            warden_launch.discard()
    try:
        _run()
    except KeyboardInterrupt:
        sys.exit(130)


def _leave(end: SystemExit) -> None:
    """End at once: everything is closed, and to take the interpreter to pieces takes 10 ms."""
    if not isinstance(end.code, int):
        raise end
    from ..sandbox.parent import warden_launch

    warden_launch.discard()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it was closed when we were started
            try:
                stream.flush()
            except (OSError, ValueError):
                raise end from None  # the interpreter has a way of its own to tell
    os._exit(end.code & 0xFF)


def _run() -> NoReturn:
    from .cli.main import main as run

    run()


def _starts_algorithm(args: Sequence[str]) -> bool:
    """As good as certain. A wrong guess costs a process of 20 ms, or as long a start."""
    if not _NO_GUARD.isdisjoint(args):
        return False
    return not args or args[0] == "run" or args[0].startswith("-") or "." in args[0] or "/" in args[0]
