"""A call of the code API that may still run, and the exceptions of failed calls.

Runs in the child, on Python 3.8 and newer.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable, List, Optional, Union

from .own_threads import RLock, wait_for

#: The longest time that asyncio waits at once.
A_DAY_S = 86_400.0


class ApiError(Exception):
    """A call of the code API has failed; `id` is the id of the call."""

    def __init__(self, text: str, call_id: str = "") -> None:
        super().__init__(text)
        self.id = call_id


class AlgorithmExecutionError(ApiError):
    """The other algorithm failed, or could not be started."""


class SubPipelineError(ApiError):
    """The sub-pipeline failed, or could not be started."""


class SubPipelineStopped(ApiError):
    """The sub-pipeline was stopped before it ended."""


class DataSourceError(ApiError):
    """The data source was not found."""


class Timeout(ApiError, TimeoutError):
    """There was no answer within `timeout` seconds; the algorithm or pipeline has been asked to stop."""


class TaskStopped(ApiError):
    """The task was stopped, or has ended, while the call waited."""


class Call:
    """An algorithm or pipeline that was started and may still run."""

    def __init__(self, call_id: str, kind: str, what: str, stop: Callable[[str], None]) -> None:
        self.id = call_id
        self.kind = kind
        self.what = what
        self._stop = stop
        self._done = threading.Event()
        self._lock = RLock()
        self._value: Any = None
        self._error: Optional[BaseException] = None
        self._callbacks: List[Callable[[], None]] = []
        self.started = False

    def done(self) -> bool:
        """Whether the answer has arrived."""
        return self._done.is_set()

    def result(self, timeout: Optional[float] = None) -> Any:
        """Wait for the answer and return it. Raises the call's error, or Timeout after `timeout` seconds."""
        if not wait_for(self._done, timeout):
            self._give_up(timeout)
        if self._error is not None:
            raise self._error
        return self._value

    def stop(self, reason: str = "stopped by the algorithm") -> None:
        """Stop it; threads that wait for it get TaskStopped, because the worker may never answer."""
        if not self.done():
            self._stop(reason)
            self._set_outcome(None, TaskStopped(f"{self.what} was stopped: {reason}", self.id))

    def _give_up(self, timeout: Optional[float]) -> None:
        self._set_outcome(None, Timeout(f"{self.what}: no answer within {timeout:g} s", self.id))
        self._stop("timeout")

    async def wait(self, timeout: Optional[float] = None) -> Any:
        """As result(), in a coroutine; if the coroutine is cancelled, what it waits for is stopped."""
        import asyncio

        try:
            return await asyncio.wait_for(self, timeout)
        except asyncio.CancelledError:
            self.stop("cancelled")
            raise
        except asyncio.TimeoutError:
            if not self.done():  # otherwise the call itself has ended with a TimeoutError
                self._give_up(timeout)
            return self.result(0)

    def __await__(self) -> Any:
        """Wait for the answer in a coroutine."""
        import asyncio

        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def mark_done() -> None:
            if not future.done():
                future.set_result(None)

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(mark_done)

        self._when_done(wake)
        # So that the loop waits for a time: see own_threads.wait_for().
        timer = loop.call_later(A_DAY_S, lambda: None)
        try:
            yield from future.__await__()
        finally:
            timer.cancel()
        return self.result(0)

    def _when_done(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if not self._done.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def _set_outcome(self, value: Any, error: Union[ApiError, MemoryError, None]) -> None:
        with self._lock:
            if self._done.is_set():
                return
            self._value, self._error = value, error
            self._done.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
