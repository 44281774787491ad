"""How a child ended: a value, and the one place that puts it into words."""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass, field


class Cause(enum.Enum):
    """Why the child is gone."""

    EXITED = "exited"  #: it ended by itself, with an exit code
    SIGNALLED = "signalled"  #: a signal that was not ours
    STOPPED = "stopped"  #: killed by us: it did not end within the grace of a stop or an exit
    INTERRUPTED = "interrupted"  #: killed by us: the user of the runner pressed Ctrl-C twice
    REPLACED = "replaced"  #: killed by us: the worker has moved on to another task
    CHANNEL_BROKEN = "channel_broken"  #: killed by us: its channel was closed or carried no frames
    NOT_STARTED = "not_started"  #: it could not be executed
    GUARD_LOST = "guard_lost"  #: the warden is gone, and the tree was ended without it


@dataclass(frozen=True)
class Process:
    """A process as it was when the kill began."""

    pid: int
    name: str
    rss_bytes: int


@dataclass(frozen=True)
class Exit:
    """How a child ended. `code` or `signal` as the kernel told; None where it was not told.

    `others` are the processes that were still there beside the child (at most 20 named, `others_count`
    in all), `left` those that even SIGKILL did not end. `detail` says more of the cause in a few words.
    `last_lines` is the end of what it printed, `stack` what faulthandler wrote.
    """

    cause: Cause
    pid: int = 0
    code: int | None = None
    signal: int | None = None
    detail: str = ""
    others: tuple[Process, ...] = ()
    others_count: int = 0
    left: tuple[Process, ...] = ()
    max_rss_bytes: int = 0
    cpu_s: float = 0.0
    stack: str = ""
    last_lines: tuple[str, ...] = field(default=())
    loaded: bool = True

    @property
    def error_code(self) -> str:
        """The code that goes in front of the message."""
        if self.cause is Cause.SIGNALLED:
            return "KILLED_BY_SIGNAL"
        if self.cause in (Cause.STOPPED, Cause.INTERRUPTED, Cause.REPLACED):
            return "STOP_FORCED"
        if self.cause is Cause.CHANNEL_BROKEN:
            return "CHANNEL_BROKEN"
        if self.cause in (Cause.GUARD_LOST, Cause.NOT_STARTED):
            return "RUNNER_ERROR"
        return "EXITED"

    @property
    def exit_status(self) -> int:
        """The exit status of hkrunner for a task that ended so."""
        if self.cause is Cause.SIGNALLED and self.signal is not None:
            return 128 + self.signal
        return 1


def signal_name(number: int) -> str:
    """Return SIGSEGV for 11."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def sentence(exit: Exit, *, during: str = "before answering") -> str:
    """Return the one line that says how it ended, code in front."""
    return f"{exit.error_code}: {_what(exit, during)}"


def _what(exit: Exit, during: str) -> str:
    match exit.cause:
        case Cause.EXITED:
            return f"the algorithm ended its process with code {exit.code} {during}"
        case Cause.SIGNALLED:
            name = signal_name(exit.signal or 0)
            meaning = _MEANINGS.get(name, "")
            return f"the algorithm's process was ended by {name}{f' ({meaning})' if meaning else ''} {during}"
        case Cause.STOPPED:
            return "the algorithm did not end when asked and was killed"
        case Cause.INTERRUPTED:
            return "the algorithm was killed by a second interrupt"
        case Cause.REPLACED:
            return "the algorithm was killed: the worker began another task"
        case Cause.CHANNEL_BROKEN:
            return f"the algorithm broke the runner's channel ({exit.detail}) and was killed"
        case Cause.NOT_STARTED:
            return f"the algorithm's process could not be started: {exit.detail}"
        case Cause.GUARD_LOST:
            return f"the runner's guard process was lost ({exit.detail}); the algorithm was killed"


_MEANINGS = {
    "SIGSEGV": "invalid memory access",
    "SIGBUS": "access beyond the end of a mapped file",
    "SIGABRT": "abort(), often a failed check in C code",
    "SIGFPE": "arithmetic error in C code",
    "SIGILL": "illegal instruction: a package built for another processor?",
    "SIGKILL": "not by this runner",
    "SIGTERM": "not by this runner",
}


def report(exit: Exit, *, during: str = "before answering") -> str:
    """Return the whole message for the worker: the sentence, who was left, stack and last lines."""
    parts = [sentence(exit, during=during)]
    if exit.others_count:
        named = ", ".join(f"{one.name} (pid {one.pid})" for one in exit.others[:5])
        more = f" and {exit.others_count - 5} more" if exit.others_count > 5 else ""
        plural = "process" if exit.others_count == 1 else "processes"
        parts.append(f"{exit.others_count} {plural} left by the algorithm ended with it: {named}{more}")
    if exit.left:
        pids = ", ".join(str(one.pid) for one in exit.left)
        parts.append(f"these could not be ended, the kernel holds them: {pids}")
    if exit.stack:
        parts.append(exit.stack)
    if exit.last_lines:
        parts.append("last output:\n" + "\n".join(f"  {line}" for line in exit.last_lines))
    return "\n".join(parts)
