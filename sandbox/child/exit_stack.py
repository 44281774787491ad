"""Has os._exit() write who calls it: nothing else tells which line ends the process, and if for an error.

Python 3.8 and newer.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
from typing import NoReturn

from .exception_report import is_ours

#: Written first where an exception is handled: ending the process is then an answer to that.
IN_AN_ERROR = b"While an error was handled:\n"


def write_exit_stack(fault: int) -> None:
    """Have os._exit() write the stack of its caller to this file first.

    Not in processes that the user's code forks, nor where our own code ends the process.
    """
    exit_now, owner = os._exit, os.getpid()

    def _exit(status: int) -> NoReturn:
        with contextlib.suppress(BaseException):  # no memory, no descriptor: the process ends in any case
            if os.getpid() == owner and not is_ours(sys._getframe(1)):
                if sys.exc_info()[1] is not None:
                    os.write(fault, IN_AN_ERROR)
                faulthandler.dump_traceback(fault, all_threads=False)
        exit_now(status)

    # A pickle names it, as what a process pool is to run.
    _exit.__module__, _exit.__qualname__ = "os", "_exit"
    os._exit = _exit
