"""How a child ended, and the sentences that report it."""

from __future__ import annotations

import enum
import errno
import os
import re
import signal
from typing import NamedTuple

from .limits import format_bytes, option_for_memory, set_by
from .messages import HeldBack, ProcessMemory


class Cause(enum.Enum):
    """Why the child has ended."""

    EXITED = "exited"  #: it ended by itself, with an exit code
    SIGNALLED = "signalled"  #: ended by a signal that hkrunner did not send
    MEMORY = "memory"  #: killed by us, or by our cgroup: above the memory limit
    SHARED_MEMORY = "shared_memory"  #: the same, most of it in /dev/shm, memory files or System V segments
    PROCESSES = "processes"  #: killed by us: too many processes
    CPU_TIME = "cpu_time"  #: killed by us: it used more CPU time than allowed
    DISK = "disk"  #: killed by us: it wrote more than allowed
    TASK_TIMEOUT = "task_timeout"  #: killed by us: the task took too long
    START_TIMEOUT = "start_timeout"  #: killed by us: loading the code took too long
    HOST_OOM = "host_oom"  #: killed, most likely by the kernel because the machine had no memory left
    STOPPED = "stopped"  #: killed by us: it did not end within the grace of a stop or an exit
    INTERRUPTED = "interrupted"  #: killed by us: the user pressed Ctrl-C twice
    REPLACED = "replaced"  #: killed by us: the worker has moved on to another task
    RECYCLED = "recycled"  #: ended by us between two tasks (--recycle-after)
    CHANNEL_BROKEN = "channel_broken"  #: killed by us: its channel was closed, or carried no frames
    NOT_STARTED = "not_started"  #: it could not be executed
    NOT_ISOLATED = "not_isolated"  #: it was not executed: the machine cannot provide the sandbox
    WARDEN_LOST = "warden_lost"  #: the warden ended unexpectedly, and the process tree was killed without it


#: Causes for which the message shows the stack of every thread.
STACK_WANTED = frozenset((Cause.TASK_TIMEOUT, Cause.START_TIMEOUT, Cause.STOPPED))


class LimitBreach(NamedTuple):
    """The limit that was exceeded: used and allowed in its own unit (bytes, processes, seconds).

    `after_s`: seconds since the child began, or its task where it has one. `top`: the largest processes,
    `objects` the largest of the run's shared memory as (name, bytes), both largest first; `objects_count`
    and `objects_bytes` are of all.
    """

    used: float
    allowed: float
    after_s: float = 0.0
    top: tuple[ProcessMemory, ...] = ()
    objects: tuple[tuple[str, int], ...] = ()
    objects_count: int = 0
    objects_bytes: int = 0
    is_refusal: bool = False  #: whether more memory was refused, and the child ended by itself


class Exit(NamedTuple):
    """How a child ended. `code` or `signal` as the kernel reported it; None if it did not.

    `others` are the other processes that still existed (at most 20 listed, `others_count` in all), `left`
    those that even SIGKILL did not end. `detail` describes the cause in a few more words.
    `peak_bytes` and `cpu_s` are of the whole tree over the child's whole life. `removed` is shared memory
    that the run left behind, `kept` shared memory that may be the run's without proof, each with the
    largest as (name, bytes) and the count of all. `last_lines` is the end of its output, `ran_before` names
    what else may have printed them, `stack` is the output of faulthandler. `origins` says what set the
    limits, as in Limits.
    """

    cause: Cause
    pid: int = 0
    code: int | None = None
    signal: int | None = None
    detail: str = ""
    others: tuple[ProcessMemory, ...] = ()
    others_count: int = 0
    left: tuple[ProcessMemory, ...] = ()
    peak_bytes: int = 0
    cpu_s: float = 0.0
    limit_bytes: int | None = None
    origins: tuple[tuple[str, str], ...] = ()
    breach: LimitBreach | None = None
    held_back: HeldBack | None = None  #: the process that was last refused memory; `ago_s` before the end
    removed: tuple[tuple[str, int], ...] = ()
    removed_count: int = 0
    kept: tuple[tuple[str, int], ...] = ()
    kept_count: int = 0
    stack: str = ""
    imports_at: str = ""  #: the user's line that has begun the last deep import
    last_lines: tuple[str, ...] = ()
    ran_before: tuple[str, ...] = ()
    loaded: bool = True
    is_program: bool = False  #: of --command, which is loaded once it has connected to hkrunner

    @property
    def error_code(self) -> str:
        """The error code with which the message begins."""
        return _CODES[self.cause]


def not_started(error: OSError) -> Exit:
    """Return the Exit of a child that the system could not start."""
    detail = error.strerror or str(error)
    detail += f": {error.filename}" if error.filename else ""
    return Exit(Cause.NOT_STARTED, detail=detail, loaded=False)


_CODES = {
    Cause.EXITED: "EXITED",
    Cause.SIGNALLED: "KILLED_BY_SIGNAL",
    Cause.MEMORY: "OUT_OF_MEMORY",
    Cause.SHARED_MEMORY: "SHARED_MEMORY_LIMIT",
    Cause.PROCESSES: "TOO_MANY_PROCESSES",
    Cause.CPU_TIME: "CPU_TIME_LIMIT",
    Cause.DISK: "DISK_LIMIT",
    Cause.TASK_TIMEOUT: "TASK_TIMEOUT",
    Cause.START_TIMEOUT: "START_TIMEOUT",
    Cause.HOST_OOM: "HOST_OOM",
    Cause.STOPPED: "STOP_FORCED",
    Cause.INTERRUPTED: "STOP_FORCED",
    Cause.REPLACED: "STOP_FORCED",
    Cause.RECYCLED: "STOP_FORCED",
    Cause.CHANNEL_BROKEN: "CHANNEL_BROKEN",
    Cause.NOT_STARTED: "RUNNER_ERROR",
    Cause.NOT_ISOLATED: "SANDBOX_UNAVAILABLE",
    Cause.WARDEN_LOST: "RUNNER_ERROR",
}


def signal_name(number: int) -> str:
    """Return the name of a signal: SIGSEGV for 11."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def sentence(exit: Exit, *, during: str = "before answering") -> str:
    """Return the line that says how it ended; it begins with the error code."""
    if exit.is_program and not exit.loaded:
        during = "before it connected to WORKER_SOCKET_URL"
    return f"{exit.error_code}: {_what(exit, during)}"


def _what(exit: Exit, during: str) -> str:
    match exit.cause:
        case Cause.EXITED if exit.code is None:
            return f"the algorithm's process ended {during}: {exit.detail}"
        case Cause.EXITED:
            text = f"the algorithm ended its process with code {exit.code} {during}"
            place = place_of(exit).partition("at ")[2]  # of os._exit()
            return f"{text}{f' ({place})' if place else ''}{_near_limit(exit)}"
        case Cause.SIGNALLED:
            name = signal_name(exit.signal or 0)
            meaning = _own_cpu_limit(exit) or _MEANINGS.get(name, "")
            return f"the algorithm's process was ended by {name}{f' ({meaning})' if meaning else ''} {during}"
        case Cause.MEMORY | Cause.SHARED_MEMORY:
            return _memory(exit, exit.breach or LimitBreach(0, 0))
        case Cause.PROCESSES:
            breach = exit.breach or LimitBreach(0, 0)
            by = set_by("pids", exit.origins)
            return (
                f"{breach.used:.0f} processes of {breach.allowed:.0f} allowed ({by})"
                f"{_after(breach)}; {_top(breach)}. Start fewer at a time, or raise the limit"
            )
        case Cause.CPU_TIME:
            breach = exit.breach or LimitBreach(0, 0)
            used_s, allowed_s = f"{breach.used:.1f}", f"{breach.allowed:.12g}"
            by = set_by("cpu_time_s", exit.origins)
            used = f"used {used_s} of {allowed_s} s CPU time allowed ({by}){_after(breach)}"
            return f"{used}; compute less, or raise the limit"
        case Cause.DISK:
            breach = exit.breach or LimitBreach(0, 0)
            used, allowed = format_bytes(breach.used), format_bytes(breach.allowed)
            by = set_by("disk_bytes", exit.origins)
            return f"wrote {used} of {allowed} allowed ({by}){_after(breach)}; write less, or raise --disk"
        case Cause.TASK_TIMEOUT:
            by = set_by("task_timeout_s", exit.origins)
            took = f"the task took longer than {exit.detail} ({by}) and was killed"
            return f"{took}; raise it if it needs longer"
        case Cause.START_TIMEOUT:
            by = set_by("start_timeout_s", exit.origins)
            if exit.is_program:
                return f"the program did not connect to WORKER_SOCKET_URL within {exit.detail} ({by})"
            return f"loading the code took longer than {exit.detail} ({by}); raise it if it needs longer"
        case Cause.HOST_OOM:
            limit = f" of {format_bytes(exit.limit_bytes)} allowed" if exit.limit_bytes else ""
            return (
                "killed by the system, probably because it had no memory left; own use "
                f"{format_bytes(exit.peak_bytes)}{limit}; run fewer things at once, or on a larger machine"
            )
        case Cause.STOPPED:
            return "the algorithm did not end when asked and was killed"
        case Cause.INTERRUPTED:
            return "the algorithm was killed by a second interrupt"
        case Cause.REPLACED:
            return "the algorithm was killed: the worker began another task"
        case Cause.RECYCLED:
            return "the algorithm was ended between two tasks (--recycle-after)"
        case Cause.CHANNEL_BROKEN:
            return f"the algorithm broke the runner's channel ({exit.detail}) and was killed"
        case Cause.NOT_STARTED:
            return f"the algorithm's process could not be started: {exit.detail}{_start_remedy(exit)}"
        case Cause.NOT_ISOLATED:
            return f"this machine cannot provide the sandbox, and the code was not started: {exit.detail}"
        case Cause.WARDEN_LOST:
            return f"hkrunner's warden process was lost ({exit.detail}); the algorithm was killed"


def _start_remedy(exit: Exit) -> str:
    """Return what to do about the system's error, where that is known; else ""."""
    detail = exit.detail
    if exit.is_program and any(os.strerror(one) in detail for one in (errno.ENOEXEC, errno.ENOENT)):
        return (
            "; a script begins with the line of an interpreter that is there, such as #!/bin/sh, without a"
            " carriage return at its end"
        )
    if os.strerror(errno.E2BIG) in detail:
        return (
            "; a variable (--env, --env-file, algorithmEnv) may have 128 KiB at most, and all together 1 MiB:"
            " put what is larger into a file"
        )
    if os.strerror(errno.EMFILE) in detail:
        return "; raise the limit before hkrunner starts (ulimit -n 64)"
    if os.strerror(errno.EAGAIN) in detail:
        return (
            "; this user, or the container, has as many processes and threads as it may: end some, or raise"
            " the limit (ulimit -u, pids.max) before hkrunner starts"
        )
    return ""


def _near_limit(exit: Exit) -> str:
    """Return the clause about memory that may have been refused just before the process ended by itself."""
    if exit.breach is None:
        return ""
    used, allowed = format_bytes(exit.breach.used), format_bytes(exit.breach.allowed)
    option = option_for_memory(int(exit.breach.used), int(exit.breach.allowed), exit.origins)
    by = set_by("memory_bytes", exit.origins)
    return f"; at {used} of {allowed} ({by}) it may have been refused memory. Try {option}"


def _memory(exit: Exit, breach: LimitBreach) -> str:
    used, allowed = format_bytes(breach.used), format_bytes(breach.allowed)
    text = f"used {used} of {allowed} allowed ({set_by('memory_bytes', exit.origins)}){_after(breach)}"
    if exit.cause is Cause.SHARED_MEMORY and breach.objects:
        # Small objects, such as our own, are no help, unless all are small.
        large = [one for one in breach.objects[:3] if one[1] > 0.01 * breach.used] or breach.objects[:1]
        named = ", ".join(f"{name} {format_bytes(size)}" for name, size in large)
        more = _more(breach.objects_count - len(large))
        text += f"; {format_bytes(breach.objects_bytes)} of it shared memory: {named}{more}"
    if breach.top:
        text += f"; {_top(breach)}"
    if breach.is_refusal:
        how = f"with code {exit.code}" if exit.signal is None else f"by {signal_name(exit.signal)}"
        text += f"; more was refused, and it ended {how}"
    place = place_of(exit)
    if place:
        text += f"; it was {place}"
    option = option_for_memory(int(breach.used), int(breach.allowed), exit.origins)
    # Without limits, the kernel would end the container.
    measure = "" if option.startswith("a container") else ", or --no-limits to see what it needs"
    return f"{text}. Try {option}{measure}"


_FRAME = re.compile(r'  File "(.+)", line (\d+) in (.+)')
#: Of 100 frames; with those of the import itself, the stack then has DEEP of child/deep_imports.py.
IMPORT_MAX = 30
_LIBRARY = re.compile(r".*/(?:(?:site|dist)-packages|python\d[.\d]*)/|<")


def place_of(exit: Exit) -> str:
    """Return where the code was: `at file:line in function`, of the innermost frame outside of libraries, and
    the module of a library that was being imported there; "" if neither is known.

    Of a deep import, faulthandler's 100 frames end before the user's: the child tells the line then, from a
    certain depth on.
    """
    importing = cut = where = ""
    count = 0
    for line in exit.stack.splitlines():
        frame = _FRAME.fullmatch(line)
        if frame is None:
            cut = importing if line == "  ..." else ""
            importing, count = "", 0  # the stack of another thread begins
            continue
        count += 1
        path, number, function = frame.groups()
        library = _LIBRARY.match(path)
        if library is None:
            return f"at {path.rpartition('/')[2]}:{number} in {function}{importing and ', '}{importing}"
        if function == "<module>" and path[0] != "<" and not importing and count <= IMPORT_MAX:
            name = re.sub(r"(/__init__)?\.pyc?$", "", path[library.end() :]).replace("/", ".")
            importing = f"importing {name}"
            where = where or importing
    # The child has told the line of its main thread, which comes last.
    return f"at {exit.imports_at}, {cut}" if cut and exit.imports_at else where


def _after(breach: LimitBreach) -> str:
    return f" after {breach.after_s:.1f} s" if breach.after_s else ""


def _top(breach: LimitBreach) -> str:
    named = [f"{one.name} (pid {one.pid}) {format_bytes(one.memory_bytes)}" for one in breach.top[:4]]
    return ", ".join(named)


def _own_cpu_limit(exit: Exit) -> str:
    """Return the limit on CPU time that hkrunner was started with, if the process was ended at it."""
    if exit.signal not in (signal.SIGXCPU, signal.SIGKILL) or exit.cpu_s < 0.9:  # the least limit is 1 s
        return ""
    import resource  # late: few processes end so

    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = soft if exit.signal == signal.SIGXCPU else hard
    is_reached = limit != resource.RLIM_INFINITY and exit.cpu_s > limit - 0.1
    return f"CPU time: ulimit -t is {limit}" if is_reached else ""


_MEANINGS = {
    "SIGSEGV": "invalid memory access",
    "SIGBUS": "access beyond the end of a mapped file",
    "SIGABRT": "abort(), often a failed check in C code",
    "SIGFPE": "arithmetic error in C code",
    "SIGILL": "illegal instruction: a package built for another processor?",
    "SIGKILL": "not by this runner",
    "SIGTERM": "not by this runner",
    "SIGXCPU": "the system's limit on CPU time, see ulimit -t",
}


def left_behind(exit: Exit) -> list[str]:
    """Return a line for each kind of thing that the algorithm left behind: removed, kept, or not killable."""
    parts = []
    if exit.others_count:
        named = ", ".join(f"{one.name} (pid {one.pid})" for one in exit.others[:5])
        more = _more(exit.others_count - 5)
        plural = "process" if exit.others_count == 1 else "processes"
        parts.append(f"{exit.others_count} {plural} left by the algorithm ended with it: {named}{more}")
    if exit.removed:
        named = _objects(exit.removed, exit.removed_count)
        parts.append(f"shared memory left by the algorithm was removed: {named}")
    if exit.kept:
        named = _objects(exit.kept, exit.kept_count)
        parts.append(f"shared memory that appeared meanwhile and may be the algorithm's was kept: {named}")
    if exit.left:
        pids = ", ".join(str(one.pid) for one in exit.left)
        parts.append(f"these could not be ended, the kernel holds them: {pids}")
    return parts


def _objects(objects: tuple[tuple[str, int], ...], count: int) -> str:
    named = [f"{name} ({format_bytes(size)})" for name, size in objects[:5]]
    return ", ".join(named) + _more(count - len(named))


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def report(exit: Exit, *, during: str = "before answering") -> str:
    """Return the whole message for the worker: the sentence, what was left, stack and last lines."""
    parts = [sentence(exit, during=during), *left_behind(exit)]
    if exit.stack:
        parts.append(exit.stack)
    if exit.last_lines:
        heading = "last output"
        if exit.ran_before:
            # They print into the same pipe as the task: its lines cannot be told apart.
            heading += f" (some of it may be of {', '.join(exit.ran_before)}, which ran before this task)"
        parts.append(f"{heading}:\n" + "\n".join(f"  {line}" for line in exit.last_lines))
    return "\n".join(parts)
