"""What keeps a process answering where the brake (RLIMIT_DATA) has refused it memory.

A reserve for the answer to a MemoryError, an error from Thread.start() where it would wait for ever, and word
of threads that have ended for want of it.

Python 3.8 and newer.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import threading
from _weakref import ref
from traceback import clear_frames
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional

from . import own_threads
from .manager_server import accept_again

#: Two arenas of Python's allocator.
RESERVE_BYTES = 2 << 20
#: How much the soft limit is raised for the answer.
RAISE_BYTES = 4 << 20
#: The modules of multiprocessing.Pool, also of the copy that uses dill, and what its threads run.
_POOLS = ("multiprocessing.pool", "multiprocess.pool")
_POOL_THREADS = ("_handle_results", "_handle_tasks", "_handle_workers")
#: The text of the error that a thread could not be started, in CPython.
_NO_THREAD = "can't start new thread"
_NO_MEMORY = "a thread of the Pool had no memory for a result"
#: How soon a job fails that a Pool got after that.
DROP_S = 0.05
#: How long none of its threads can have the lock for writing a result, while no worker is left.
LOST_LOCK_S = 0.5
#: The stack of a thread where the system sets no size; a request beyond the brake is repeated so often.
STACK_BYTES = 8 << 20
STACK_TRIES = 3
#: How soon Thread.start() notices that its thread has ended without having begun.
LOST_THREAD_S = 0.1


#: Returns the error that was handled when another was raised. To get this function itself takes memory.
_context_of: Callable[[BaseException], object] = BaseException.__dict__["__context__"].__get__


class MemoryReserve:
    """Memory that is reserved and never touched, so that none is used: bytes(n) comes from calloc."""

    def __init__(self) -> None:
        self._reserved = bytes(RESERVE_BYTES)

    def release_after(self, error: BaseException) -> None:
        """After a MemoryError there is memory for the answer, though the traceback still holds the user's.

        First the reserve is released, which takes no memory; then the brake is raised: the warden sets it
        again when it looks next.
        """
        try:
            if not _is_of_memory(error):
                return
        except MemoryError:  # for the question itself
            pass
        self._reserved = b""
        _raise_brake(RAISE_BYTES)

    def restore(self) -> None:
        """Reserve it again, if there is room: that of circles of the user's, which the error has held."""
        if not self._reserved:
            gc.collect()
            with contextlib.suppress(MemoryError):
                self._reserved = bytes(RESERVE_BYTES)


def _raise_brake(more: int) -> bool:
    """Raise the soft limit by this much; return whether there is one."""
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if soft != resource.RLIM_INFINITY:
            most = soft + more if hard == resource.RLIM_INFINITY else min(soft + more, hard)
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
            return True
    return False


def _is_of_memory(error: BaseException) -> bool:
    """Whether it is a MemoryError, or was raised while one was handled."""
    # Not isinstance() and not error.__context__: both would ask the user's class, which may raise. The first
    # takes no memory.
    return issubclass(type(error), MemoryError) or issubclass(type(_context_of(error)), MemoryError)


def _is_refused_thread(error: BaseException) -> bool:
    """Whether a thread could not be started because the brake left no room for its stack."""
    if type(error) is not RuntimeError or error.args != (_NO_THREAD,):
        return False
    return not has_room_for_a_stack()


def report_threads_without_memory(reserve: MemoryReserve, report: Callable[[str, str], None]) -> None:
    """Have `report` called for each thread that ends for want of memory, with its name and its error.

    That is before the error is printed. It may be one that could not start another thread.
    Whatever waits for such a thread (an Event that it would set, the results of a Pool) waits for ever. The
    results of a Pool fail instead, also if its thread ended with another error: of an exception that cannot
    be unpickled, for one. The server of a Manager accepts connections again.
    """
    show = threading.excepthook
    pid = os.getpid()

    def excepthook(args: Any, /) -> None:
        error = args.exc_value
        if error is None:
            show(args)
            return
        is_of_memory = _is_of_memory(error)
        if is_of_memory:
            reserve.release_after(error)
        if os.getpid() == pid and (is_of_memory or _is_refused_thread(error)):
            with contextlib.suppress(Exception):  # no memory for it: Python shows the error
                told = "MemoryError" if is_of_memory else f"RuntimeError: {_NO_THREAD}"
                report(getattr(args.thread, "name", "?"), told)
        show(args)
        with contextlib.suppress(Exception):  # what a Pool or a Manager consists of differs between versions
            told_to_pool = MemoryError(_NO_MEMORY) if is_of_memory else error
            _stand_in_for_thread_of_pool(args.exc_traceback, told_to_pool)
            accept_again(args.exc_traceback)

    threading.excepthook = excepthook


def _stand_in_for_thread_of_pool(traceback: Optional[TracebackType], error: BaseException) -> None:
    """Have everything that waits for results of a multiprocessing.Pool raise this error.

    Called in a thread of the Pool that has ended so. Without it, results are waited for for ever, while the
    Pool's other threads stay busy. It may have read half a result: what comes after that is read and dropped,
    or the workers, and with them the end of the Pool, would wait for room in the pipe.
    """
    while traceback is not None:
        name, found = traceback.tb_frame.f_code.co_name, traceback.tb_frame.f_locals
        if traceback.tb_frame.f_globals.get("__name__") in _POOLS and name in _POOL_THREADS:
            jobs, results = found["cache"], found.get("outqueue")
            clear_frames(traceback)  # they hold the memory
            del found, traceback
            _fail_jobs(jobs, error)
            if name == "_handle_results" and hasattr(results, "_reader"):
                _drop_results(results, jobs, error)
            return
        traceback = traceback.tb_next


def _fail_jobs(jobs: Dict[int, Any], error: BaseException) -> None:
    """Have what waits for these jobs of a Pool raise this error."""
    for number, job in list(jobs.items()):
        with contextlib.suppress(AttributeError):  # another thread makes it just now: it is met again
            if hasattr(job, "_number_left"):  # of map(): the job ends with its last chunk
                job._number_left = 1
            job._set(getattr(job, "_index", 0), (False, error))
            jobs.pop(number, None)  # one of imap() has stayed


def _drop_results(results: Any, jobs: Dict[int, Any], error: BaseException) -> None:
    """Read what comes from the Pool's workers, and fail its further jobs, until the Pool and its workers end.

    `results`: the queue in which they come.
    """
    dropped = bytearray(1 << 16)
    workers: List[Any] = []
    others = [one for one in threading.enumerate() if any(it is jobs for it in getattr(one, "_args", ()))]
    for other in others:
        for argument in getattr(other, "_args", ()):
            if isinstance(argument, list) and argument and hasattr(argument[0], "sentinel"):
                workers = argument  # the Pool's own list: it replaces workers
    while True:
        with contextlib.suppress(MemoryError):
            if results._reader.poll(DROP_S):
                os.readv(results._reader.fileno(), [dropped])
            _fail_jobs(jobs, error)
            if any(_runs(one) for one in workers):
                continue
            if not any(one.is_alive() for one in others):
                return
            # A worker may have been ended while it wrote, with the lock for that, which others wait for.
            results._wlock.acquire(timeout=LOST_LOCK_S)
            results._wlock.release()


def _runs(process: Any) -> bool:
    """Whether the process has not ended. It is left to be reaped."""
    poll = select.poll()
    poll.register(process.sentinel, select.POLLIN)
    return not poll.poll(0)


def lower_brake(brake_bytes: Optional[int]) -> None:
    """Take back what the brake allowed above the limit while the code was loaded.

    The warden does the same when it learns of Loaded; by then a first task may have used it. On a busy
    machine the warden may not have looked at this process at all until now.
    """
    if brake_bytes is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with contextlib.suppress(OSError, ValueError, MemoryError):
        most = _data_bytes() + brake_bytes
        if soft == resource.RLIM_INFINITY or most < soft:
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def has_room_for_a_stack() -> bool:
    """Whether the brake lets this process reserve the stack of another thread."""
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return stack == resource.RLIM_INFINITY or has_room(stack)


def has_room(size_bytes: int) -> bool:
    """Whether the brake lets this process reserve so much."""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY:
        return True
    try:
        return soft - _data_bytes() > size_bytes
    except (OSError, ValueError, MemoryError):
        return False


def own_memory_limit() -> str:
    """Return the limit on this process's memory that hkrunner was started with, as ulimit names it; "": none.

    The brake sets the soft limit on data alone.
    """
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    _, data = resource.getrlimit(resource.RLIMIT_DATA)
    for option, limit in (("-v", address_space), ("-d", data)):
        if limit != resource.RLIM_INFINITY:
            return f"ulimit {option} is {limit // 1024}"
    return ""


def _data_bytes() -> int:
    """Return what counts towards RLIMIT_DATA. Raises OSError and ValueError."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


class _ThreadBegun(threading.Event):
    """What Thread.start() waits for. wait() raises RuntimeError where the thread ended without setting it."""

    def __init__(self, thread: threading.Thread, bootstrap: Callable[[], object]) -> None:
        super().__init__()
        self._thread = ref(thread)
        # Only the thread holds it, until its end.
        self._bootstrap = ref(bootstrap)

    def wait(self, timeout: Optional[float] = None) -> bool:
        if timeout is not None:
            return super().wait(timeout)
        while not super().wait(LOST_THREAD_S):
            if self._bootstrap() is None and not self.is_set():
                with threading._active_limbo_lock:  # type: ignore[attr-defined]
                    threading._limbo.pop(self._thread(), None)  # type: ignore[attr-defined]
                raise RuntimeError(_NO_THREAD)
        return True


def notice_lost_threads(*, stacks_count: bool) -> None:
    """Have Thread.start() raise where its thread had no memory for its first allocation.

    CPython prints "Exception ignored in thread started by" then, and start() waits for the thread for ever.

    Without `stacks_count`, the brake refuses no thread: 20 KiB of a stack of 8 MiB are used.
    """
    name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
    threads: Any = own_threads
    setattr(threading, name, _noticing(getattr(threading, name), stacks_count))
    threads.start_thread = _noticing(threads.start_thread, stacks_count)


def _noticing(begin: Callable[..., object], stacks_count: bool) -> Callable[..., object]:
    """Return what starts a thread by `begin`, as notice_lost_threads() says."""

    def start_noticing(bootstrap: Callable[[], object], *args: Any, **more: Any) -> object:
        thread = getattr(bootstrap, "__self__", None)
        if isinstance(thread, threading.Thread):
            thread._started = _ThreadBegun(thread, bootstrap)  # type: ignore[attr-defined]
        if not stacks_count:
            for _ in range(STACK_TRIES):  # the warden may lower the limit again in between
                try:
                    return begin(bootstrap, *args, **more)
                except RuntimeError:
                    if not _raise_brake(_stack_bytes()):
                        break
        return begin(bootstrap, *args, **more)

    return start_noticing


def _stack_bytes() -> int:
    """Return what a new thread reserves for its stack."""
    size = threading.stack_size() or resource.getrlimit(resource.RLIMIT_STACK)[0]
    return max(size, STACK_BYTES) + RAISE_BYTES
