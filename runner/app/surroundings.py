"""Errors of the system that no command can handle: one sentence for each, in place of a traceback."""

from __future__ import annotations

import errno
import os
import resource

from ..errors import has_lost_error

#: Open files that a run needs, with some to spare.
_FILES_NEEDED = 64


def explain(error: BaseException) -> str | None:
    """Return a sentence for an error that the system caused; None for a bug of hkrunner."""
    if isinstance(error, FileNotFoundError) and not _has_working_folder():
        return "the working folder does not exist any more: change to another one (cd) and try again"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"too many open files: at most {soft} are allowed; try `ulimit -n {_FILES_NEEDED}` or more"
    if "can't start new thread" in str(error) and (limit := _memory_limit()):
        return (
            f"hkrunner has no room for the stack of another thread: {limit}; raise it before hkrunner starts"
        )
    if isinstance(error, BlockingIOError) or "can't start new thread" in str(error):
        soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        shown = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
        return (
            "no further process or thread can be started: this user, or the container, has as many as it may"
            f" (ulimit -u is {shown})"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{os.strerror(error.errno)}"
    # A listing raises ENOMEM.
    is_refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or is_refused or has_lost_error(error):
        limit = _memory_limit()
        return f"hkrunner itself has no memory left{f': {limit}' if limit else ''}"
    return None


def _memory_limit() -> str:
    """Return the limit on this process's own memory; "" if there is none."""
    for option, which in (("-v", resource.RLIMIT_AS), ("-d", resource.RLIMIT_DATA)):
        soft, _ = resource.getrlimit(which)
        if soft != resource.RLIM_INFINITY:
            return f"ulimit {option} is {soft // 1024}"
    return ""


def _has_working_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True
