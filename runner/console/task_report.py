"""The results of tasks: printed, reported in a line each, and turned into the exit status."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from typing import Any

from ...sandbox.shared.limits import format_bytes, suggest_memory
from ...sandbox.shared.outcome import left_behind
from ..protocol.error_codes import CODES
from ..protocol.messages import Failure
from ..protocol.result import Result
from ..settings.settings import Settings
from .terminal import Output


class TaskReport:
    """Writes results to stdout and a line about each to stderr; `status` is the exit status so far."""

    def __init__(self, settings: Settings, output: Output) -> None:
        self._settings = settings
        self._output = output
        self.status = 0
        self._explained: set[str] = set()  #: codes for which `hkrunner explain` was mentioned
        self._parent = ("", "")  #: the parent of the tasks' folders, in full and as shown

    def note_status(self, status: int) -> None:
        """Raise the exit status to this one, unless it is higher already."""
        self.status = max(self.status, status)

    def note_broken_stdout(self) -> None:
        """Note that stdout takes no more results: its reader has gone, or it is a file on a full disk."""
        problem = self._output.out.problem
        if problem is None or problem.errno == errno.EPIPE:
            self.note_status(141)  # as the shell reports a writer whose reader has gone
            return
        self._output.warn(f"✘ results cannot be written to stdout: {problem.strerror}")
        self.note_status(1)

    def show(self, result: Result) -> None:
        """Print the result of a task, and report how it ended."""
        self.note_status(result.exit_status)
        self._output.end_lines()
        self.print_result(result)
        self.show_end(result)
        self._output.events.result(result)

    def print_result(self, result: Result) -> None:
        """Print the result of a task to stdout."""
        if self._settings.console.events:
            pass  # written as an event
        elif self._settings.console.json:
            self._output.result(result.line())
        elif result.output is not None:
            self._output.result(result.output)

    def show_end(self, result: Result) -> None:
        """Report in a line how a task ended."""
        output = self._output
        if result.status == "failed" and result.failure is not None:
            output.warn(f"✘ task {result.task} failed: {self.words(result.failure)}", task=result.task)
            self._name_explain(result.failure.code)
        elif result.status == "stopped":
            output.warn(f"■ task {result.task} stopped{_how(result)}", task=result.task)
        else:
            place = ""
            if result.folder is not None:
                place = f" · {self._shown(result.folder)}"
            elif result.journal_number is not None and result.record_name != result.task:
                place = f" · recorded as {result.record_name}"
            # With --in-process, hkrunner itself is part of what was measured.
            used = "" if self._settings.local_run.in_process else _used(result)
            output.say(f"✔ {result.task} done in {_duration(result.duration_s)}{used}{place}")
        for problem in result.problems:
            output.warn(f"  {problem}", task=result.task)

    def _name_explain(self, code: str) -> None:
        """Mention `hkrunner explain`, once for each code that the user's code did not cause."""
        explains_itself = code in CODES and CODES[code].explains_itself
        if not explains_itself and code not in self._explained:
            self._explained.add(code)
            self._output.say(f"◌ more: hkrunner explain {code}")

    def words(self, failure: Failure) -> str:
        """Return the failure's text: its sentence, and the user's own lines or the whole traceback."""
        if not (self._settings.console.full_trace and failure.details):
            return failure.message
        return failure.message.partition("\n")[0] + "\n" + failure.details.rstrip()

    def _shown(self, folder: str) -> str:
        parent, name = os.path.split(folder)
        if self._parent[0] != parent:  # computed once: the folders of all tasks have one parent
            short = os.path.relpath(parent, self._settings.code.cwd)
            # In / the relative path would be the absolute one without its slash.
            at_root = self._settings.code.cwd == os.sep
            self._parent = (parent, parent if at_root else min(parent, short, key=len))
        return f"{self._parent[1]}/{name}"


def _how(result: Result) -> str:
    """Return how a stop went: how long it took, whether a kill was needed, and the processes left."""
    parts = [f" in {_duration(result.stop_s)}" if result.stop_s is not None else ""]
    if result.exit is not None and not result.exit.left:
        parts.append("no process left")
    text = " · ".join(parts)
    if result.failure is not None:
        return f"{text}: {result.failure.message}"  # which names the processes that were ended with it
    return text + "".join(f"\n  {line}" for line in (left_behind(result.exit) if result.exit else ()))


class ProgressLog:
    """Writes progress where no status line shows it, as in the log of a CI job: a line every EVERY_S."""

    EVERY_S = 10.0

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._say = say
        self._clock = clock
        self._next_at = 0.0

    def begin(self) -> None:
        """A task begins: its first line comes EVERY_S from now at the earliest."""
        self._next_at = self._clock() + self.EVERY_S

    def progress(self, task: str, data: Any) -> bool:
        """Write what the task reports, unless the last line is too recent; return whether it was written."""
        is_due = self._clock() >= self._next_at
        if is_due:
            self._say(progress_line(task, data))
            self.begin()
        return is_due


def progress_line(task: str, data: Any) -> str:
    """Return the line for a `progress` message; data is whatever the wrapper sent."""
    told = data if isinstance(data, dict) else {}
    percent, details = told.get("progress"), told.get("details")
    shown = f"{percent:.0f}" if isinstance(percent, float) else str(percent)
    return f"  {task}: {shown} %" + (f" · {details}" if details is not None else "")


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _used(result: Result) -> str:
    """Return what a successful task used, and a memory limit that suffices."""
    if result.peak_bytes is None:
        return ""
    peak, more = _peak(result.peak_bytes, result.limit_bytes, result.needed_bytes)
    return f"{peak} · {result.cpu_s:.2f} s cpu{more}"


@functools.lru_cache(maxsize=8)
def _peak(peak_bytes: int, limit_bytes: int | None, reserved_bytes: int) -> tuple[str, str]:
    # Cached: tasks that follow each other mostly have the same peak.
    peak = f" · peak {format_bytes(peak_bytes)}"
    if limit_bytes is not None:
        return f"{peak} of {format_bytes(limit_bytes)}", ""
    return peak, f" · --mem {suggest_memory(max(peak_bytes, reserved_bytes))} would do"
