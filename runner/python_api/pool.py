"""hkrunner.Pool: an executor of concurrent.futures whose workers have limits, and replace themselves.

    with hkrunner.Pool(simulate, workers=4, mem="512Mi", timeout=60) as pool:
        for future in pool.as_completed([pool.submit(one) for one in parameters]):
            print(future.result())

There are three kinds of processes: this one, in which a thread gives tasks to the workers
(pool_dispatcher.py); the workers, each below a warden; and a supervising process between the two
(app/pool_supervisor.py). The supervising process adopts orphans, handles signals and must always answer at
once. A user's process is not suited for that: it may be a notebook, or hold the interpreter's lock for
seconds. Tasks do not pass through the supervising process.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, as_completed
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from ..errors import SettingsError
from .keywords import POOL_KEYWORDS, PoolOptions, complete_signature
from .pool_checks import check_map, check_pool, checked_time_limit, checked_wait, checked_workers
from .pool_coding import FileCoding, FunctionCoding
from .pool_dispatcher import PoolDispatcher
from .pool_on_executor import ExecutorDispatcher
from .pool_order import order_of, order_on_executor

if TYPE_CHECKING:
    from typing_extensions import Unpack

P = ParamSpec("P")
R = TypeVar("R")

#: The Pools that have not ended, for the end of the interpreter.
_live: weakref.WeakSet[PoolDispatcher | ExecutorDispatcher] = weakref.WeakSet()
# A forked process has none of their threads: it would wait for their tasks for ever.
os.register_at_fork(after_in_child=_live.clear)


class Pool(Executor, Generic[P, R]):
    """An executor whose tasks run in worker processes under limits.

    A task that fails or is killed fails alone: its future raises TaskFailed, its worker is replaced if need
    be, and everything else goes on.
    """

    @overload
    def __init__(
        self: Pool[[Any], Any],
        code: str | os.PathLike[str],
        workers: int | None = None,
        *,
        executor: Executor | None = None,
        spare: bool = True,
        records: bool | None = None,
        **options: Unpack[PoolOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: Pool[P, R],
        code: Callable[P, R],
        workers: int | None = None,
        *,
        executor: Executor | None = None,
        spare: bool = True,
        records: bool | None = None,
        **options: Unpack[PoolOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: Pool[..., Any],
        code: None = None,
        workers: int | None = None,
        *,
        executor: Executor | None = None,
        spare: bool = True,
        records: bool | None = None,
        **options: Unpack[PoolOptions],
    ) -> None: ...

    def __init__(
        self,
        code: Any = None,
        workers: int | None = None,
        *,
        executor: Executor | None = None,
        spare: bool = True,
        records: bool | None = None,
        **options: Any,
    ) -> None:
        """Start the workers; return once the options are accepted, while the workers load the code.

        `code` is one of three:

        - an algorithm's file: submit(input) runs start() with the input as args["input"], as hkrunner.run()
          does, and the future has what start() returned.
        - a function: submit(*args, **kwargs) calls it. It may be of a notebook or a script; it is sent to the
          workers once, with cloudpickle.
        - None: submit(function, *args, **kwargs), as with other executors.

        `workers`: the number of tasks that run at once; None: the number of CPUs. `spare`: whether one more
        process has the code loaded, and takes over at once when a worker ends.

        `executor`: runs the tasks, such as that of a Dask cluster (client.get_executor()); each task has a
        worker under limits on the machine where the executor runs it. None: the Pool has its own workers.

        `records`: whether `hkrunner runs` shows the tasks. None: those of a file, and with state_dir those of
        functions, too.

        The other options are those of `hkrunner run`. The limits are those of each worker, `timeout` that of
        each task.

            (see KEYWORDS)

        Raises EntryNotFound or SettingsError. Code that cannot be loaded fails the tasks with EntryUnusable.
        """
        check_pool(code, executor, spare, records)
        self._has_code = code is not None
        self._has_function = code is None or callable(code)
        coding: FunctionCoding | FileCoding
        coding = FunctionCoding(code) if self._has_function else FileCoding(os.fspath(code))
        function = coding.order if isinstance(coding, FunctionCoding) else None
        self._dispatcher: PoolDispatcher | ExecutorDispatcher
        if executor is None:
            workers = checked_workers(workers)
            order = order_of(coding, options, processes=workers + spare, records=records)
            self._dispatcher = PoolDispatcher(order, coding, function, workers=workers, spare=spare)
        else:
            if workers is not None:
                raise SettingsError(
                    "workers is for a Pool with workers of its own: an executor has its own number"
                )
            order = order_on_executor(coding, options, processes=1 + spare, records=records)
            pickled = coding.pickled if isinstance(coding, FunctionCoding) else None
            self._dispatcher = ExecutorDispatcher(executor, order, coding, pickled, spare=spare)
        _live.add(self._dispatcher)
        # A Pool without references ends after its last task.
        weakref.finalize(self, self._dispatcher.close).atexit = False
        try:
            self._dispatcher.ready.result()
        except BaseException:
            self.terminate()
            raise

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:  # type: ignore[override]
        """Run a task; return its future. Raises RuntimeError after shutdown()."""
        return self.schedule(args, kwargs)

    def schedule(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Future[R]:
        """Run a task with these arguments; return its future. `timeout`: of this task, in seconds, in place
        of the Pool's."""
        positional, named = tuple(args), dict(kwargs or {})
        limit_s = checked_time_limit(timeout)
        if not self._has_function and (len(positional) != 1 or named):
            raise TypeError("a task of a file has one argument, its input")
        if not self._has_code and not (positional and callable(positional[0])):
            raise TypeError("a Pool without code wants a function as the first argument of submit()")
        return self._dispatcher.submit(positional, named, limit_s)

    def map(  # type: ignore[override]
        self,
        *iterables: Any,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[R]:
        """Run a task for each item of the iterables, taken together; yield the results in their order.

        A Pool without code gets the function first. `timeout`: seconds from this call on, after which the
        iterator raises TimeoutError. `chunksize` has no effect: short tasks are sent several at once anyway.
        `buffersize`: how many tasks are submitted ahead of the one whose result is next; None: all.
        """
        check_map(chunksize, buffersize)
        timeout = checked_wait(timeout)
        if not self._has_code and not (iterables and callable(iterables[0])):
            raise TypeError("a Pool without code wants a function as the first argument of map()")
        if not self._has_code:
            iterables = (itertools.repeat(iterables[0]), *iterables[1:])
        end = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables, strict=False)
        futures = deque(self.schedule(one) for one in itertools.islice(calls, buffersize))

        def results() -> Iterator[R]:
            try:
                while futures:
                    for one in itertools.islice(calls, 1) if buffersize is not None else ():
                        futures.append(self.schedule(one))
                    # It stays among those that are cancelled below. No variable for it: an error's traceback
                    # and the future would hold each other.
                    futures[0].result(None if end is None else end - time.monotonic())
                    yield futures.popleft().result()
            finally:
                while futures:
                    futures.pop().cancel()

        return results()

    #: As in concurrent.futures: pool.as_completed(futures, timeout=None).
    as_completed = staticmethod(as_completed)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and end the workers after the last one.

        `cancel_futures`: tasks that have not begun are cancelled. `wait`: return when every process has
        ended.
        """
        self._dispatcher.close(cancel=cancel_futures)
        if wait:
            self._dispatcher.join()

    def terminate(self) -> None:
        """Cancel tasks that have not begun, end those that have, and return when every process has ended.

        An algorithm's file gets its stop() called, and the grace; a function is killed. Tasks that are ended
        so raise TaskFailed.
        """
        self._dispatcher.close(now=True)
        _join(self._dispatcher)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Shut down and wait; after a KeyboardInterrupt, also meanwhile, or another reason to exit,
        terminate()."""
        if kind is not None and not issubclass(kind, Exception):
            self.terminate()
            return
        try:
            self.shutdown()
        except KeyboardInterrupt:
            self.terminate()
            raise


def _join(dispatcher: PoolDispatcher | ExecutorDispatcher) -> None:
    """Wait for its end; a KeyboardInterrupt meanwhile kills the workers."""
    try:
        dispatcher.join()
    except KeyboardInterrupt:
        dispatcher.close(now=True)
        dispatcher.join()
        raise


@atexit.register
def _end_all() -> None:
    """The interpreter exits: submitted tasks run, as with other executors, unless Ctrl-C has ended it."""
    is_interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    for dispatcher in list(_live):
        dispatcher.close(now=is_interrupted)
    for dispatcher in list(_live):
        try:
            dispatcher.join()
        except KeyboardInterrupt:
            dispatcher.close(now=True)
            with contextlib.suppress(KeyboardInterrupt):
                _join(dispatcher)


complete_signature(Pool.__init__, POOL_KEYWORDS)
