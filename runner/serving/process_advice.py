"""Advice after a process or thread that the kernel refused: which limit it was, and what raises it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence

from ...sandbox.shared.limits import Limits, set_by, tasks_allowed
from ..protocol.messages import Failure

#: Texts of Python, of libraries and of shells about a thread or a process that could not be made. Compiled
#: only for a text with one of these words: that takes 0.6 ms, for which other failures shall not wait.
_WORDS = ("hread", "fork", "system_error")
_REFUSED = (
    r"start new thread|pthread_create failed|unable to create (?:new )?(?:native )?thread"
    r"|[Tt]hread creation failed|system_error[\s\S]{0,80}Resource temporarily unavailable"
    r"|[Cc]annot fork|fork(?: failed)?: (?:retry: )?Resource temporarily unavailable"
)
_CODES = ("ALGORITHM_ERROR", "IMPORT_FAILED", "EXITED", "KILLED_BY_SIGNAL", "RUNNER_ERROR")
#: Python's text for EAGAIN, which a refused fork raises, and a non-blocking socket too ...
_AGAIN = f"BlockingIOError: [Errno {errno.EAGAIN}]"
#: ... and words of a traceback that show that it was a fork.
_FORK = r"\bfork|_fork_exec|_execute_child|_launch\b|spawn"


def explain_refused_process(
    failure: Failure, limits: Limits, pid: int | None, printed: Sequence[str] = ()
) -> Failure:
    """Return a failure that a refused process or thread caused, with the limit added; others as they are.

    `pid`: of the algorithm's process; None: it has ended.
    """
    if failure.code not in _CODES:
        return failure
    is_fork = _AGAIN in failure.message and re.search(_FORK, failure.details)
    text = "\n".join((failure.message, *printed))
    if not is_fork and not (any(word in text for word in _WORDS) and re.search(_REFUSED, text)):
        return failure
    first, line, rest = failure.message.partition("\n")
    told = f"{first}; the kernel refused a process or thread: {_limit(limits, pid)}"
    return failure._replace(message=f"{told}{line}{rest}")


def _limit(limits: Limits, pid: int | None) -> str:
    """Return the limit that has refused it, and what raises it."""
    # Late, as below: of most failures nothing is to be said here, and the first one's answer would wait 2 ms.
    from ...sandbox.shared.container_limits import refusing_task_limits

    own = tasks_allowed(limits.pids) if limits.pids is not None and limits.enforced else None
    refusing = refusing_task_limits(pid if pid is not None else os.getpid())
    by_user = _limit_of_user(pid)
    # --pids is enforced by the run's cgroup, which is removed after the process, or by RLIMIT_NPROC, which
    # also counts what the user had before, and does not hold for root.
    is_own = own in refusing or (
        not refusing and (by_user is None or by_user >= (own or 0)) and _is_enforced(pid)
    )
    if own is not None and is_own:
        by = set_by("pids", limits.origins)
        return (
            f"{by} {limits.pids} allows {own} threads in all, those of all processes together. Start fewer"
            " at a time, or raise --pids: each one more allows 4 threads more"
        )
    if refusing:
        return (
            f"the cgroup of this container or session allows {min(refusing)} in all (pids.max), with"
            " hkrunner's own. Start fewer at a time, or raise the container's limit"
        )
    if by_user is not None:
        return (
            f"this user may have {by_user} on the whole machine (ulimit -u). Start fewer at a time, or raise"
            " this limit before hkrunner starts"
        )
    return "the machine has no more, or no memory for its stack. Start fewer at a time"


def _is_enforced(pid: int | None) -> bool:
    """Whether --pids was enforced by RLIMIT_NPROC, or by a cgroup that has been removed since."""
    if os.getuid() != 0:
        return True
    from ...sandbox.linux import cgroup

    place = cgroup.find(may_move=[os.getpid()]) if pid is None else None
    return isinstance(place, cgroup.Place) and "pids" in place.controllers


def _limit_of_user(pid: int | None) -> int | None:
    """Return RLIMIT_NPROC of the process; None: there is none, as for root."""
    if os.getuid() == 0:
        return None
    import resource

    try:
        most = resource.prlimit(pid or 0, resource.RLIMIT_NPROC)[0]
    except OSError:  # it has ended; its limit was inherited from this process
        most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    return None if most == resource.RLIM_INFINITY else most
