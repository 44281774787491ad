"""How a child ended: one Exit from the reports of its warden, the kernel and faulthandler."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

from ..linux.process_tree import NOT_LEFT, Left
from ..shared.channel import EXIT_CHANNEL_LOST
from ..shared.limits import Limits
from ..shared.messages import Account, BrokenLimit, Ended, HeldBack, ProcessMemory, SharedMemoryUse
from ..shared.outcome import Cause, Exit, LimitBreach

#: An Exit names this many of the processes that were left.
NAMED = 20
_STACK_MAX = 16_000
#: A child that ends within this time after memory was refused to it has most likely ended for that reason.
REFUSED_S = 0.5
#: The same for a signal: the stacks of all threads are written first, which takes long on a busy machine.
REFUSED_AND_WRITTEN_S = 2.0
#: The beginning of what os._exit() writes where no error is handled (child/exit_stack.py).
_OF_EXIT = "Stack ("
_OF_A_REFUSAL = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGTRAP, signal.SIGINT)


def exit_of(
    ended: Ended,
    *,
    pid: int,
    problem: str,
    is_refused: bool,
    kill: tuple[Cause, str] | None,
    channel_closed: bool,
    limits: Limits,
    loaded: bool,
    task_began: float,
    oom_in_task: bool,
) -> Exit:
    """Return how the child ended, as its warden told.

    `problem`: why it could not be executed, "" if it could. `is_refused`: the problem is that it could not be
    isolated. `kill`: why the parent had it killed, and details. `channel_closed`: its end of the task
    socket was closed. `task_began`: when its last task was sent, on the monotonic clock; 0: it had none.
    `oom_in_task`: the kernel's OOM killer has killed a process since then.
    """
    status, account = ended.status, ended.account
    code = os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None
    number = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None
    detail = kill[1] if kill is not None else ""
    breach: LimitBreach | None = None
    if problem:
        cause, detail = Cause.NOT_ISOLATED if is_refused else Cause.NOT_STARTED, problem
    elif ended.broken is not None:
        cause, breach = Cause(ended.broken.cause), _breach_of(ended.broken)
    elif ended.was_killed and kill is not None:
        cause = kill[0]
    elif code == EXIT_CHANNEL_LOST and channel_closed:
        cause, detail = Cause.CHANNEL_BROKEN, "it closed the socket"
    else:
        cause, breach = _cause_outside(account, code, number, limits, task_began, oom_in_task)
    others = [one for one in ended.others if one.pid != pid]
    exit = Exit(
        cause,
        pid=pid,
        code=code,
        signal=number,
        detail=detail,
        others=tuple(others),
        others_count=ended.others_count - (len(ended.others) - len(others)),
        left=tuple(ended.left),
        peak_bytes=ended.max_rss_bytes,
        limit_bytes=limits.memory_bytes if limits.enforced else None,
        origins=limits.origins,
        breach=breach,
        loaded=loaded,
    )
    if account is None:
        return exit
    return exit._replace(
        peak_bytes=max(account.peak_bytes, ended.max_rss_bytes - account.files_bytes),
        cpu_s=account.cpu_s,
        held_back=account.held_back,
        removed=_objects(account.removed),
        removed_count=account.removed_count,
        kept=_objects(account.kept),
        kept_count=account.kept_count,
    )


def _breach_of(broken: BrokenLimit) -> LimitBreach:
    return LimitBreach(
        broken.used,
        broken.allowed,
        broken.after_s,
        tuple(broken.top),
        _objects(broken.objects),
        broken.objects_count,
        broken.objects_bytes,
    )


def _cause_outside(
    account: Account | None,
    code: int | None,
    number: int | None,
    limits: Limits,
    task_began: float,
    oom_in_task: bool,
) -> tuple[Cause, LimitBreach | None]:
    """Return the cause of an end that is not hkrunner's doing, and the memory limit if that is behind it."""
    if account is not None:
        if number == signal.SIGKILL and account.group_oom:
            limit = limits.memory_bytes or 0
            return Cause.MEMORY, LimitBreach(limit, limit, account.after_s, tuple(account.top or ()))
        if number == signal.SIGKILL and account.machine_oom and oom_in_task:
            return Cause.HOST_OOM, None
        if _was_refused_memory(account.held_back, code, number, task_began):
            assert account.held_back is not None, "it was held back"
            return Cause.MEMORY, refused(account.held_back, limits)
    return Cause.EXITED if number is None else Cause.SIGNALLED, None


def _was_refused_memory(
    held: HeldBack | None, code: int | None, number: int | None, task_began: float
) -> bool:
    """Whether a child that ended by itself was kept from reserving memory just then, in its last task.

    Libraries answer a refused allocation with exit(1), abort(), a signal to themselves, or by using the null
    pointer.
    """
    if held is None or not held.concerns(task_began):
        return False
    if number in _OF_A_REFUSAL:
        return held.ago_s <= REFUSED_AND_WRITTEN_S
    return bool(code) and held.ago_s <= REFUSED_S


def refused(held: HeldBack, limits: Limits) -> LimitBreach:
    """Return the memory limit as broken by a process that was refused more."""
    process = ProcessMemory(held.pid, held.name, held.memory_bytes)
    return LimitBreach(held.memory_bytes, limits.memory_bytes or 0, top=(process,), is_refusal=True)


def exit_without_warden(
    why: str,
    *,
    pid: int,
    problem: str,
    kill: tuple[Cause, str] | None,
    ended: Iterable[Left],
    left: Iterable[Left],
    loaded: bool,
) -> Exit:
    """Return how a child ended whose warden was lost for this reason; the other arguments as in exit_of()."""
    others = [ProcessMemory(*one) for one in ended if one.pid != pid and one.name not in NOT_LEFT]
    if problem:
        cause, detail = Cause.NOT_STARTED, problem
    elif kill is None or kill[0] is Cause.CHANNEL_BROKEN:  # only the warden knows whether the child has ended
        cause, detail = Cause.WARDEN_LOST, why
    else:
        cause, detail = kill
    return Exit(
        cause,
        pid=pid,
        detail=detail,
        others=tuple(others[:NAMED]),
        others_count=len(others),
        left=tuple(ProcessMemory(*one) for one in left),
        loaded=loaded,
    )


def _objects(found: Iterable[SharedMemoryUse]) -> tuple[tuple[str, int], ...]:
    return tuple((one.name, one.size_bytes) for one in found)


def fault_text(fd: int) -> str:
    """Return what faulthandler has written to its file."""
    try:
        return os.pread(fd, _STACK_MAX, 0).decode("utf-8", "replace")
    except OSError:
        return ""


def with_stack(exit: Exit, stack: str) -> Exit:
    """Return the exit with what user_stack() returned.

    Code that calls os._exit() without an error at hand has decided so itself: that memory was refused just
    before is told, and not blamed. exit() in a library's C code writes no stack.
    """
    if exit.code and exit.breach is not None and exit.breach.is_refusal and stack.startswith(_OF_EXIT):
        exit = exit._replace(cause=Cause.EXITED)
    return exit._replace(stack=stack)


def user_stack(text: str) -> str:
    """Return what faulthandler wrote without our own frames, and without threads that are in our code."""
    kept = []
    for block in text.replace("\0", "").strip().split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith(_EXIT_FRAME)]
        frames = [line for line in lines if line.startswith("  File ")]
        if not lines or lines[0].startswith("Extension modules"):
            continue
        if lines[1:] == ["  <no Python frame>"] and "Fatal" not in text:
            continue  # the stack of a thread that has just begun, or has ended
        # The most recent call comes first. A crash in our own code is shown all the same.
        crashed_here = "Fatal" in text and lines[0].startswith("Current")
        is_own = bool(frames) and frames[0].startswith(_OWN_FRAMES)
        if is_own and not crashed_here:
            continue
        if not is_own:
            # Below our own frames are those that called us, where our code runs in the user's own process.
            own = next((at for at, line in enumerate(lines) if line.startswith(_OWN_FRAMES)), len(lines))
            lines = lines[:own]
        kept.append("\n".join(line for line in lines if not line.startswith(_OWN_FRAMES)))
    return "\n".join(kept)


_OURS = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_OWN_FRAMES = tuple(f'  File "{os.path.join(_OURS, name)}{os.sep}' for name in ("sandbox", "runner"))
#: The frame that has written the stack of os._exit(): the next one is the user's.
_EXIT_FRAME = f'  File "{os.path.join(_OURS, "sandbox", "child", "exit_stack.py")}"'
