"""pdb for code that we call: what breakpoint() and a post-mortem open with --in-process.

Imported when it is opened: pdb costs 20 ms.
"""

from __future__ import annotations

import pdb
from types import FrameType, TracebackType
from typing import Any

from . import exception_report


class Debugger(pdb.Pdb):
    """Stops in the user's code only: a step past its end continues, instead of entering hkrunner's code."""

    def dispatch_return(self, frame: FrameType, arg: Any) -> Any:
        """The frame is left."""
        traced = super().dispatch_return(frame, arg)
        if frame.f_back is None or exception_report.is_ours(frame.f_back):
            self.set_continue()
        return traced


_debugger: Debugger | None = None


def stop_at(frame: FrameType | None) -> None:
    """Open it at this frame; the breakpoints that were set in it stay from one time to the next."""
    global _debugger
    _debugger = _debugger or Debugger()
    _debugger.set_trace(frame)


def look_at(trace: TracebackType | None) -> None:
    """Open it where an exception was raised, until it is left."""
    one = Debugger()
    one.reset()
    one.interaction(None, trace)
