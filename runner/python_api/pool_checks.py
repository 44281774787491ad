"""What the parameters of an hkrunner.Pool and its methods may be. Each error is one sentence, at the call."""

from __future__ import annotations

import math
import numbers
import os
from concurrent.futures import Executor
from typing import Any

from ..errors import SettingsError


def checked_workers(workers: Any) -> int:
    """Return the number of workers; raises SettingsError."""
    if workers is None:
        return len(os.sched_getaffinity(0))
    if not _is_whole(workers) or workers < 1:
        raise SettingsError(f"workers wants a whole number of 1 or more, not {workers!r}")
    return int(workers)


def check_pool(code: Any, executor: Any, spare: Any, records: Any) -> None:
    """Raise SettingsError for a parameter of the wrong type."""
    if not (code is None or callable(code) or isinstance(code, (str, os.PathLike))):
        raise SettingsError(f"code wants a function, the path of a file or None, not {code!r}")
    if executor is not None and not isinstance(executor, Executor) and not _has_methods_of_executor(executor):
        raise SettingsError(f"executor wants an executor as of concurrent.futures, not {executor!r}")
    if not isinstance(spare, bool):
        raise SettingsError(f"spare wants True or False, not {spare!r}")
    if records is not None and not isinstance(records, bool):
        raise SettingsError(f"records wants True, False or None, not {records!r}")


def checked_time_limit(timeout: Any) -> float | None:
    """Return the time limit of a task in seconds; raises SettingsError."""
    if timeout is None:
        return None
    seconds = _seconds(timeout)
    if seconds is None or not 0 < seconds < math.inf:
        raise SettingsError(f"timeout wants a number of seconds above 0, or None, not {timeout!r}")
    return seconds


def checked_wait(timeout: Any) -> float | None:
    """Return for how many seconds map() waits, None for as long as it takes; raises SettingsError.

    As with other executors, a number that is not above 0 does not wait.
    """
    if timeout is None:
        return None
    seconds = _seconds(timeout)
    if seconds is None or math.isnan(seconds):
        raise SettingsError(f"timeout wants a number of seconds, or None, not {timeout!r}")
    return None if seconds == math.inf else seconds


def check_map(chunksize: Any, buffersize: Any) -> None:
    """Raise TypeError or ValueError, as other executors do, for what are no numbers of tasks."""
    if not _is_whole(chunksize):
        raise TypeError(f"chunksize wants a whole number, not {chunksize!r}")
    if chunksize < 1:
        raise ValueError(f"chunksize wants a whole number of 1 or more, not {chunksize!r}")
    if buffersize is not None and not _is_whole(buffersize):
        raise TypeError(f"buffersize wants a whole number or None, not {buffersize!r}")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _seconds(value: Any) -> float | None:
    """Return the number as a float, None for what is no number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _has_methods_of_executor(executor: Any) -> bool:
    return not isinstance(executor, type) and callable(getattr(executor, "submit", None))
