"""Tells the parent which line of the user's has begun a deep import, for the case that the process is killed.

faulthandler writes 100 frames only, and an import takes six of them for each module on the way: the user's
line is not among them. Python 3.8 and newer.
"""

from __future__ import annotations

import contextlib
import os
import sys
from _thread import get_ident
from collections.abc import Callable
from types import FrameType

from .exception_report import is_library, is_ours

#: Frames on the stack from which on the line is noted; see outcome.place_of(), which uses it.
DEEP = 60


class DeepImports:
    """A finder of modules that finds none. Made, and asked for modules that count, in the main thread."""

    def __init__(self, report: Callable[[str], None]) -> None:
        """`report` is called when the line has changed."""
        self._report = report
        self._place = ""
        self._main, self._pid = get_ident(), os.getpid()
        #: Whether a file is of a library, for those that were met: to find out is dearer than the rest.
        self._libraries: dict[str, bool] = {}

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Note the line, if this import is a deep one."""
        try:
            sys._getframe(DEEP)
        except ValueError:
            return
        with contextlib.suppress(Exception):  # no memory, most likely
            if get_ident() == self._main and os.getpid() == self._pid:
                self._note()

    def _note(self) -> None:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            file = frame.f_code.co_filename
            if file not in self._libraries:
                self._libraries[file] = is_library(file) or is_ours(frame)
            if not self._libraries[file]:
                place = f"{os.path.basename(file)}:{frame.f_lineno} in {frame.f_code.co_name}"
                if place != self._place:
                    self._place = place
                    self._report(place)
                return
            frame = frame.f_back
