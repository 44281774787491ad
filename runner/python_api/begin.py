"""The command's side of hkrunner.run(): the process that it starts begins here."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import NoReturn

from ..errors import HkrunnerError
from ..io.signals import reset_inherited_signals

_PR_SET_PDEATHSIG = 1

#: Argument of `python -c`. Neither -m nor a file: they put a folder of the user's, or of hkrunner's, first on
#: sys.path, where a random.py replaces the standard library's.
PROGRAM = (
    "import sys; sys.path[:] = filter(None, sys.path);"
    "from hkrunner.runner.entry_point import look_last_in_python_path; look_last_in_python_path();"
    "from hkrunner.runner.python_api.begin import begin; begin()"
)


def interpreter() -> str:
    """Return the interpreter for the process. Raises HkrunnerError where Python does not know its own."""
    if not sys.executable or not os.access(sys.executable, os.X_OK):
        found = f"no longer {sys.executable}" if sys.executable else "not known"
        raise HkrunnerError(
            f"the path of this Python is {found}, as in a program that embeds it: set sys.executable to an"
            " interpreter with hkrunner"
        )
    return sys.executable


def folders_of_imports() -> list[str]:
    """Return sys.path in a form that holds in another working folder, without what no import searches."""
    return [os.path.abspath(one) for one in sys.path if isinstance(one, str)]


def end_with_caller(caller: int) -> None:
    """Have the kernel send SIGTERM to this process when the caller's thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != caller:
        sys.exit(143)  # the caller ended before the kernel watched it


def begin() -> NoReturn:
    """Run the command `hkrunner`. sys.argv holds the caller's pid, then the arguments of the command."""
    end_with_caller(int(sys.argv[1]))
    reset_inherited_signals()
    from ..cli.main import main_with
    from ..entry_point import leave

    try:
        main_with(sys.argv[2:])
    except SystemExit as end:
        if not sys.flags.inspect:
            raise
        leave(end)  # PYTHONINSPECT of the caller: the interpreter would not exit with this status
