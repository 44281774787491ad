"""The object handed to start(args, api): HKube's code API, with HKube's names, and what it lacks.

Calls may come from any thread and overlap. An answer is matched to its call by id; a call that waits is
released by its answer, its timeout, or the end of the task. Errors are raised; with `returned_errors`
(--api-errors return) they are returned instead, as HKube's own Python wrapper does.

Protocol: HKube core/worker lib/code-api. Ids are text, `input` is always a list; the worker refuses
anything else. Runs in the child, on Python 3.8 and newer.

Here: what users call. api_call.py: one call, and its errors. api_answers.py: the calls that wait, by id, and
what the worker says to them.
"""

from __future__ import annotations

import contextlib
import time
from collections import abc
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

from . import exception_report
from .api_answers import Calls
from .api_call import (
    AlgorithmExecutionError,
    ApiError,
    Call,
    DataSourceError,
    SubPipelineError,
    SubPipelineStopped,
    TaskStopped,
    Timeout,
)

#: Progress goes to the worker at most this often; what comes faster is thinned, the last value is kept.
PROGRESS_EVERY_S = 0.1


class Api(Calls):
    """What an algorithm may ask of HKube, and of its runner, while a task runs."""

    Error = ApiError
    AlgorithmExecutionError = AlgorithmExecutionError
    SubPipelineError = SubPipelineError
    SubPipelineStopped = SubPipelineStopped
    DataSourceError = DataSourceError
    Timeout = Timeout
    TaskStopped = TaskStopped

    # ---- stop

    @property
    def stopping(self) -> bool:
        """True once a stop was asked for: a long loop that looks at it can end early and cleanly."""
        return self._stopping.is_set()

    def wait_for_stop(self, timeout_s: Optional[float] = None) -> bool:
        """Wait until a stop is asked for, at most this long; True if it was."""
        return self._stopping.wait(timeout_s)

    # ---- other algorithms

    def start_algorithm(
        self,
        algorithmName: str,
        input: Sequence[Any] = (),
        includeResult: bool = True,
        *,
        timeout: Optional[float] = None,
    ) -> Any:
        """Run another algorithm of the cluster; return its result, None with includeResult=False.

        Raises AlgorithmExecutionError, Timeout (then it is stopped), TaskStopped.
        """
        return self._outcome(
            lambda: self.begin_algorithm(algorithmName, input, includeResult), timeout, includeResult
        )

    def begin_algorithm(
        self, algorithmName: str, input: Sequence[Any] = (), includeResult: bool = True
    ) -> Call:
        """Start another algorithm and go on; `result()` of what is returned waits for it.

        In a coroutine `await` does, or `await call.wait(timeout)`, which also stops it when the coroutine is
        cancelled.
        """
        is_other = isinstance(input, (str, bytes, bytearray, memoryview, abc.Mapping))
        if is_other or not isinstance(input, abc.Iterable):
            # The worker's own word for it; list() would take a text or a dict apart.
            kind = type(input).__name__
            raise AlgorithmExecutionError(
                f"algorithm {algorithmName}: data.input should be array: a list of arguments, not {kind}"
            )
        data = {
            "algorithmName": str(algorithmName),
            "input": list(input),
            "includeResult": bool(includeResult),
        }
        return self._begin(self._algorithms, "execId", "startAlgorithmExecution", data, str(algorithmName))

    def stop_algorithm(self, execution: Any, reason: str = "stopped by the algorithm") -> None:
        """Stop what begin_algorithm returned, or its id."""
        self._stop_call(self._algorithms, execution, reason)

    # ---- sub-pipelines

    def start_stored_subpipeline(
        self,
        name: str,
        flowInput: Optional[Mapping[str, Any]] = None,
        includeResult: bool = True,
        *,
        timeout: Optional[float] = None,
    ) -> Any:
        """Run a stored pipeline; return its results, a list with one item a sink node.

        Raises SubPipelineError, SubPipelineStopped, Timeout (then it is stopped), TaskStopped.
        """
        return self._outcome(
            lambda: self.begin_stored_subpipeline(name, flowInput, includeResult), timeout, includeResult
        )

    def begin_stored_subpipeline(
        self, name: str, flowInput: Optional[Mapping[str, Any]] = None, includeResult: bool = True
    ) -> Call:
        """Start a stored pipeline and go on."""
        pipeline = {"name": str(name), "flowInput": dict(flowInput or {})}
        return self._begin_pipeline("startStoredSubPipeline", pipeline, includeResult)

    def start_raw_subpipeline(
        self,
        name: str,
        nodes: Sequence[Mapping[str, Any]],
        flowInput: Optional[Mapping[str, Any]] = None,
        options: Optional[Mapping[str, Any]] = None,
        webhooks: Optional[Mapping[str, Any]] = None,
        includeResult: bool = True,
        *,
        timeout: Optional[float] = None,
    ) -> Any:
        """Run a pipeline that is described here; as start_stored_subpipeline otherwise."""
        return self._outcome(
            lambda: self.begin_raw_subpipeline(name, nodes, flowInput, options, webhooks, includeResult),
            timeout,
            includeResult,
        )

    def begin_raw_subpipeline(
        self,
        name: str,
        nodes: Sequence[Mapping[str, Any]],
        flowInput: Optional[Mapping[str, Any]] = None,
        options: Optional[Mapping[str, Any]] = None,
        webhooks: Optional[Mapping[str, Any]] = None,
        includeResult: bool = True,
    ) -> Call:
        """Start a pipeline that is described here, and go on."""
        pipeline = {
            "name": str(name),
            "nodes": [dict(node) for node in nodes],
            "options": dict(options or {}),
            "webhooks": dict(webhooks or {}),
            "flowInput": dict(flowInput or {}),
        }
        return self._begin_pipeline("startRawSubPipeline", pipeline, includeResult)

    def stop_subpipeline(self, pipeline: Any, reason: str = "stopped by the algorithm") -> None:
        """Stop what a begin_…_subpipeline returned, or its id."""
        self._stop_call(self._pipelines, pipeline, reason)

    # ---- data sources

    def getDataSource(self, dataSource: Mapping[str, Any], *, timeout: Optional[float] = None) -> Any:
        """Return the pair (error, data source), as HKube's wrapper does.

        Errors are raised (DataSourceError), so error is None, unless returned errors were asked for.
        """
        try:
            return None, self.get_data_source(dataSource, timeout=timeout)
        except ApiError as error:
            if self._returned_errors:
                return str(error), None
            raise

    def get_data_source(self, dataSource: Mapping[str, Any], *, timeout: Optional[float] = None) -> Any:
        """Return {"name", "files": [{"name", "path", …}]} for {"dataSourceId": …} or {"snapshotId": …}."""
        data = {"dataSource": dict(dataSource)}
        call = self._begin(self._sources, "requestId", "dataSourceRequest", data, "data source")
        return call.result(timeout)

    # ---- progress, spans, log

    def progress(self, progress: float, details: Any = None) -> None:
        """Say how far the task is, 0 to 100; shown by the runner, logged by the worker."""
        with self._lock:
            now = time.monotonic()
            if now - self._progressed_at < PROGRESS_EVERY_S and progress < 100:
                self._progress_left = [progress, details]
                return
            self._progressed_at, self._progress_left = now, None
        self._show_progress(float(progress), details)

    def start_span(self, name: str, tags: Optional[Mapping[str, Any]] = None) -> None:
        """Begin a span of the task's trace; spans nest, the last one begun is finished first."""
        self._need_start("a span")
        self._send({"command": "startSpan", "data": {"name": str(name), "tags": dict(tags or {})}})
        with self._lock:
            self._spans.append(str(name))

    def finish_span(self, tags: Optional[Mapping[str, Any]] = None, error: Any = None) -> None:
        """Finish the span begun last."""
        with self._lock:
            if not self._spans:
                raise ApiError("finish_span: no span was started")
            self._spans.pop()
        self._send_finish(dict(tags or {}), None if error is None else exception_report.text_of(error))

    @contextlib.contextmanager
    def span(self, name: str, tags: Optional[Mapping[str, Any]] = None) -> Iterator[None]:
        """A span around a block; what the block raises becomes the span's error."""
        self.start_span(name, tags)
        try:
            yield
        except BaseException as error:
            self.finish_span(error=f"{exception_report.name_of(error)}: {exception_report.text_of(error)}")
            raise
        self.finish_span()

    def log(self, *lines: Any) -> None:
        """Print lines, flushed, in order with everything else the task prints."""
        for line in lines:
            print(line, flush=True)

    # ---- streaming, as far as HKube's debug server carries it

    def registerInputListener(self, onMessage: Callable[..., Any]) -> None:
        """Have onMessage(message, origin) called for each message of the stream."""
        self._listener = onMessage

    def startMessageListening(self) -> None:
        """From now on messages are delivered; those that came before, first."""
        self._listening = True
        with self._lock:
            waiting, self._waiting_messages = self._waiting_messages, []
        for one in waiting:
            self._deliver(one)

    def isListeningToMessages(self) -> bool:
        """Messages are delivered."""
        return self._listening

    def stopStreaming(self, force: bool = True) -> None:
        """No more messages are delivered."""
        self._listening = False

    def sendMessage(self, msg: Any, flowName: Optional[str] = None) -> None:
        """Send a message down the stream."""
        self._send(
            {
                "command": "streamingOutMessage",
                "data": {"message": msg, "flowName": flowName, "sendMessageId": str(next(self._ids))},
            }
        )
