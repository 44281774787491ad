"""The only asyncio event loop of this process; everything of the user's that is awaited runs on it.

So objects that init() or an earlier task created can be used: locks, queues, sessions, connections. The main
thread runs the loop while it awaits init(), start() or exit(), and between two tasks until the next message
arrives. The loop does not run during a plain function of the user's. A stop() that is awaited is passed to
the thread that runs the loop; if no thread does, the thread of stop() runs the loop itself.

The loop is the one that the user's code has set, by asyncio.set_event_loop() or by its first call of
asyncio.get_event_loop(); otherwise hkrunner creates one. asyncio is imported when something is to be awaited.
Python 3.8 and newer.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from threading import get_ident  # as it is before gevent replaces it
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Callable, Coroutine, Dict, List, Optional, Set

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures
    import contextvars

#: A generator that @types.coroutine has made awaitable (inspect.CO_ITERABLE_COROUTINE).
_ITERABLE_COROUTINE = 0x100
#: How long cancelled tasks may take at the end of the process; less than the grace, so they are reported.
CANCEL_S = 2.0
_UNSET = object()


def can_be_awaited(value: Any) -> bool:
    """Whether the value is awaitable. As inspect.isawaitable(), whose import takes 5 ms."""
    kind = type(value)
    if kind is CoroutineType:
        return True
    if kind is GeneratorType:
        return bool(value.gi_code.co_flags & _ITERABLE_COROUTINE)
    return any(vars(base).get("__await__") is not None for base in kind.__mro__)


def is_async_generator(value: Any) -> bool:
    """Whether the value comes from an `async def` with a `yield`."""
    return isinstance(value, AsyncGeneratorType)


def was_not_run(value: Any) -> bool:
    """Whether a function returned a generator, so that none of its code has run."""
    return isinstance(value, (AsyncGeneratorType, GeneratorType))


async def _awaited(value: Any) -> Any:
    """Return the final result: a coroutine may return another coroutine, or a task."""
    import asyncio

    loop = asyncio.get_running_loop()
    while can_be_awaited(value):
        if asyncio.isfuture(value) and not value.done() and value.get_loop() is not loop:
            raise RuntimeError(
                f"a {type(value).__name__} of another event loop cannot be awaited: make it in a coroutine, "
                "or await it there and return the value"
            )
        value = await value
    return value


async def _with_context(coroutine: Coroutine[Any, Any, Any], contexts: List[contextvars.Context]) -> Any:
    """Return the result of the coroutine; the context in which it ends is added to `contexts`."""
    import contextvars

    try:
        return await coroutine
    finally:
        contexts.append(contextvars.copy_context())


def _adopt_context(context: contextvars.Context) -> None:
    """Set each context variable of this thread that has another value in the context."""
    for variable, value in context.items():
        if variable.get(_UNSET) is not value:
            variable.set(value)


class EventLoop:
    """Runs awaitables. Created in the main thread; other threads may call run() and cancel() only."""

    def __init__(self, report: Callable[[str, Optional[BaseException]], None]) -> None:
        """`report` is called for each task that was left running and failed, or does not end."""
        self._report = report
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        #: The loop that hkrunner created, and closes.
        self._made: Optional[asyncio.AbstractEventLoop] = None
        self._broken: List[asyncio.AbstractEventLoop] = []
        self._main = get_ident()
        self._changed = threading.Condition()
        #: Whether run() or run_until_readable() uses the loop.
        self._is_taken = False
        #: The asyncio task of the init() or start() that is awaited.
        self._current: Optional[asyncio.Task[Any]] = None
        self._is_cancelled = False
        #: Results of what other threads have passed to the thread that runs the loop.
        self._handed: Set[concurrent.futures.Future[Any]] = set()
        #: Tasks that outlived the function that created them, and those of them that failed.
        self._left: Set[asyncio.Task[Any]] = set()
        self._failed: List[asyncio.Task[Any]] = []
        self._is_between_tasks = False
        self._is_finishing = False
        #: The SystemExit or KeyboardInterrupt that has ended the last run(): it is reported by its caller.
        self._raised: Optional[BaseException] = None

    def renew_locks(self) -> None:
        """Replace the lock, in a forked process: the thread that may hold it does not exist there."""
        self._changed = threading.Condition()
        self._handed = set()

    # ---- which loop

    def adopt(self) -> None:
        """Use the loop that the user's code has set for the main thread, if it has set one."""
        module = sys.modules.get("asyncio")
        if module is not None:
            loop = _set_loop(module)
            if loop is not None and not loop.is_closed():
                self._loop = loop

    def _usable(self) -> asyncio.AbstractEventLoop:
        import asyncio

        if get_ident() == self._main:
            self.adopt()
        if self._loop is None or self._loop.is_closed():
            self._loop = self._made = asyncio.new_event_loop()
            self._made.set_exception_handler(self._on_loop_error)
        return self._loop

    def _forget(self, loop: asyncio.AbstractEventLoop) -> None:
        """Replace a loop that cannot run any more; the next awaitable gets a new one."""
        import asyncio

        # Keep it: its __del__ would close descriptors by numbers that may belong to other files by now.
        self._broken.append(loop)
        if self._loop is loop:
            self._loop = None
            if get_ident() == self._main:
                asyncio.set_event_loop(None)

    # ---- running

    def run(self, awaitable: Any, name: str, *, is_cancelled_by_stop: bool) -> Any:
        """Return the result of the awaitable; raises what it raises."""
        import asyncio

        is_main = get_ident() == self._main
        with self._changed:
            while is_main and self._is_taken:
                self._changed.wait()
            loop = self._usable()
            handed: Optional[concurrent.futures.Future[Any]] = None
            if self._is_taken or loop.is_running():  # by a thread of the user's, or by a plain start()
                handed = asyncio.run_coroutine_threadsafe(_awaited(awaitable), loop)
                self._handed.add(handed)
            else:
                self._is_taken = True
        if handed is not None:
            try:
                return handed.result()
            finally:
                self._handed.discard(handed)
        try:
            if is_main:  # asyncio.run() in the user's code has unset it
                asyncio.set_event_loop(loop)
            coroutine, contexts = _awaited(awaitable), []  # type: ignore[var-annotated]
            if name == "init":
                # A task has a copy of the context; what init() sets is for start(), and a plain init() sets
                # it in the context of this thread.
                coroutine = _with_context(coroutine, contexts)
            result = self._run(loop, coroutine, name, is_cancelled_by_stop)
            if contexts:
                _adopt_context(contexts[0])
            return result
        finally:
            self._release(loop)
            if is_main:
                self._look_at_left(loop)

    def _run(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], name: str, cancel: bool
    ) -> Any:
        task = loop.create_task(coroutine)
        task.set_name(name)
        if cancel:
            with self._changed:
                self._current = task
                if self._is_cancelled:
                    task.cancel()
        try:
            return loop.run_until_complete(task)
        except BaseException as error:
            self._raised = None if isinstance(error, Exception) else error
            if not task.done():  # a KeyboardInterrupt: let the task clean up, as asyncio.run() does
                task.cancel()
                with contextlib.suppress(BaseException):  # the first error is the answer
                    loop.run_until_complete(task)
                if not task.done():
                    self._forget(loop)
            raise
        finally:
            if cancel:
                with self._changed:
                    self._current = None

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        """Finish what other threads have passed on meanwhile, then let them run the loop."""
        try:
            while not self._let_go():
                self._finish_handed(loop)
        except BaseException:
            self._let_go(at_once=True)
            raise

    def _let_go(self, *, at_once: bool = False) -> bool:
        """Let other threads run the loop, unless something they passed on is unfinished; return whether."""
        # Checked and released under one lock, so that nothing can be passed on in between.
        with self._changed:
            if not at_once and any(not one.done() for one in self._handed):
                return False
            self._is_taken = False
            self._changed.notify_all()
            return True

    def finish_handed(self) -> None:
        """Finish a stop() that was passed to a loop that start() itself ran and that has stopped since."""
        loop = self._loop
        if loop is None or loop.is_closed() or loop.is_running():
            return
        with self._changed:  # the thread of stop() may be about to add to _handed
            if self._is_taken or not self._handed:
                return
            self._is_taken = True
        self._release(loop)

    def _finish_handed(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        with self._changed:
            waiting = [asyncio.wrap_future(one, loop=loop) for one in self._handed if not one.done()]
        if waiting:
            loop.run_until_complete(_all_done(waiting))

    def run_until_readable(self, fd: int) -> None:
        """Run the loop, if there is one, until the descriptor is readable, so that its tasks continue."""
        loop = self._loop
        if loop is None or loop.is_closed() or loop.is_running():
            return
        with self._changed:
            while self._is_taken:
                self._changed.wait()
            self._is_taken = True
        self._is_between_tasks = True
        try:
            readable = loop.create_future()
            loop.add_reader(fd, _resolve, readable)
            try:
                loop.run_until_complete(readable)
            finally:
                loop.remove_reader(fd)
        except OSError:  # the user's code has closed the loop's descriptors
            self._forget(loop)
        except Exception:  # noqa: BLE001 - stopped by the user's code, or a class without add_reader()
            return  # the caller's read waits by itself
        finally:
            self._is_between_tasks = False
            self._release(loop)

    # ---- stops

    def forget_cancel(self) -> None:
        """A new task begins, for which the stop of the last one does not count."""
        self._is_cancelled = False

    def cancel(self) -> None:
        """Cancel the init() or start() that is awaited now or next. Called by the thread of stop()."""
        with self._changed:
            self._is_cancelled = True
            task, loop = self._current, self._loop
            if task is not None and loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                    loop.call_soon_threadsafe(task.cancel)

    # ---- tasks that were left running

    def _look_at_left(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        for task in asyncio.all_tasks(loop) - self._left:
            self._left.add(task)
            task.add_done_callback(self._left_has_ended)
        self._report_failed()

    def _left_has_ended(self, task: asyncio.Task[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            self._failed.append(task)
            if self._is_between_tasks and self._loop is not None:
                # Later: a task that awaits this one is woken first, and may handle the error.
                self._loop.call_soon(self._report_failed)

    def _report_failed(self) -> None:
        failed, self._failed = self._failed, []
        for task in failed:
            # False if the exception was retrieved, by an await or by exception().
            if getattr(task, "_log_traceback", True) and task.exception() is not None:
                text = f"the asyncio task {_shown(task)}, which was left running, failed"
                self._report(text, task.exception())

    def finish(self) -> None:
        """Cancel the tasks that are left, report those that fail or do not end, and close our own loop."""
        loop = self._loop
        if loop is None or loop.is_closed() or loop.is_running():
            return
        import asyncio

        self._look_at_left(loop)
        tasks = asyncio.all_tasks(loop)
        self._is_finishing = True
        loop.set_exception_handler(self._on_loop_error)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=CANCEL_S))
        self._report_failed()
        for task in tasks:
            if not task.done():
                self._report(f"the asyncio task {_shown(task)} was cancelled at the end, and goes on", None)
        loop.run_until_complete(loop.shutdown_asyncgens())
        if loop is self._made:
            loop.close()

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: Dict[str, Any]) -> None:
        """Log what goes wrong in the loop as asyncio does, without what is told already or is no error."""
        import asyncio

        error = context.get("exception")
        if error is not None and error is self._raised:
            return  # of a task: asyncio has raised it out of the loop, but did not mark it as retrieved
        if self._is_finishing and isinstance(error, asyncio.CancelledError):
            # While everything is cancelled: until Python 3.12, asyncio's streams raise it a second time for
            # the task of a connection.
            return
        if isinstance(error, PermissionError) and (read := _reader_of(context.get("handle"))) is not None:
            # epoll refuses what never blocks, as the algorithm's stdin, which is /dev/null: it can be read.
            loop.call_soon(read)
            return
        loop.default_exception_handler(context)


def _set_loop(module: Any) -> Optional[asyncio.AbstractEventLoop]:
    """Return the loop set for this thread; never create one, as get_event_loop() does before Python 3.14."""
    if sys.version_info >= (3, 14):
        with contextlib.suppress(RuntimeError):
            found: asyncio.AbstractEventLoop = module.get_event_loop()
            return found
        return None
    policy = getattr(module, "get_event_loop_policy", lambda: None)()  # not there while asyncio is imported
    loop: Optional[asyncio.AbstractEventLoop] = getattr(getattr(policy, "_local", None), "_loop", None)
    return loop


def _reader_of(handle: Any) -> Optional[Callable[[], None]]:
    """Return what a pipe transport of asyncio was to have called when there is something to read."""
    is_added = getattr(getattr(handle, "_callback", None), "__name__", "") == "_add_reader"
    arguments = getattr(handle, "_args", None)
    return arguments[1] if is_added and arguments and len(arguments) == 2 else None


async def _all_done(futures: List[asyncio.Future[Any]]) -> None:
    import asyncio

    await asyncio.gather(*futures, return_exceptions=True)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _shown(task: asyncio.Task[Any]) -> str:
    name = getattr(task.get_coro(), "__qualname__", "")
    return f"{task.get_name()} ({name})" if name else task.get_name()
