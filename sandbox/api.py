"""The object handed to start(args, api): HKube's code API, with HKube's names, and what it lacks.

Calls may come from any thread and overlap. An answer is matched to its call by id; a call that waits is
released by its answer, its timeout, or the end of the task. Errors are raised; with `returned_errors`
(--api-errors return) they are returned instead, as HKube's own Python wrapper does.

Protocol: HKube core/worker lib/code-api. Ids are text, `input` is always a list; the worker refuses
anything else. Runs in the child, on Python 3.8 and newer.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

#: Progress goes to the worker at most this often; what comes faster is thinned, the last value is kept.
PROGRESS_EVERY_S = 0.1


class ApiError(Exception):
    """A call of the code API has failed; `id` is the one it was sent with."""

    def __init__(self, text: str, call_id: str = "") -> None:
        super().__init__(text)
        self.id = call_id


class AlgorithmExecutionError(ApiError):
    """The other algorithm failed, or could not be started."""


class SubPipelineError(ApiError):
    """The sub-pipeline failed, or could not be started."""


class SubPipelineStopped(ApiError):
    """The sub-pipeline was stopped by somebody."""


class DataSourceError(ApiError):
    """The data source was not found."""


class ApiTimeout(ApiError, TimeoutError):
    """No answer within `timeout` seconds; what was started has been told to stop."""


class TaskStopped(ApiError):
    """The task was stopped, or has ended, while the call waited."""


class Call:
    """Something that was started and may still run."""

    def __init__(self, call_id: str, what: str, stop: Callable[[str], None]) -> None:
        self.id = call_id
        self.what = what
        self._stop = stop
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._value: Any = None
        self._error: Optional[ApiError] = None
        self._callbacks: List[Callable[[], None]] = []
        self.started = False

    def done(self) -> bool:
        """The answer is there."""
        return self._done.is_set()

    def result(self, timeout: Optional[float] = None) -> Any:
        """Wait for the answer and return it; raises what went wrong, ApiTimeout after `timeout` seconds."""
        if not self._done.wait(timeout):
            self._settle(None, ApiTimeout(f"{self.what}: no answer within {timeout:g} s", self.id))
            self._stop("timeout")
        if self._error is not None:
            raise self._error
        return self._value

    def stop(self, reason: str = "stopped by the algorithm") -> None:
        """Have it stopped; whoever waits for it gets TaskStopped (the worker itself may never answer)."""
        if not self.done():
            self._stop(reason)
            self._settle(None, TaskStopped(f"{self.what} was stopped: {reason}", self.id))

    def __await__(self) -> Any:
        """`await` it in a coroutine."""
        import asyncio

        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def settle() -> None:
            if not future.done():
                future.set_result(None)

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(settle)

        self._when_done(wake)
        yield from future.__await__()
        return self.result(0)

    def _when_done(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if not self._done.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def _settle(self, value: Any, error: Optional[ApiError]) -> None:
        with self._lock:
            if self._done.is_set():
                return
            self._value, self._error = value, error
            self._done.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class Api:
    """What an algorithm may ask of HKube, and of its runner, while a task runs."""

    Error = ApiError
    AlgorithmExecutionError = AlgorithmExecutionError
    SubPipelineError = SubPipelineError
    SubPipelineStopped = SubPipelineStopped
    DataSourceError = DataSourceError
    Timeout = ApiTimeout
    TaskStopped = TaskStopped

    #: One counter for the life of the process: an answer to an old task's call fits no new call.
    _ids = itertools.count(1)

    def __init__(
        self,
        send: Callable[[Dict[str, Any]], None],
        show_progress: Callable[[float, Any], None],
        *,
        returned_errors: bool = False,
    ) -> None:
        """`send` posts a message to the worker; `show_progress` tells the runner."""
        self._send = send
        self._show_progress = show_progress
        self._returned_errors = returned_errors
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._algorithms: Dict[str, Call] = {}
        self._pipelines: Dict[str, Call] = {}
        self._sources: Dict[str, Call] = {}
        self._spans: List[str] = []
        self._progressed_at = float("-inf")
        self._progress_left: Optional[List[Any]] = None
        self._listener: Optional[Callable[..., Any]] = None
        self._listening = False
        self._waiting_messages: List[Mapping[str, Any]] = []
        self._working = False
        self._over = False

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

        Raises AlgorithmExecutionError, ApiTimeout (then it is stopped), TaskStopped.
        """
        call = self.begin_algorithm(algorithmName, input, includeResult)
        return self._outcome(call, timeout, includeResult)

    def begin_algorithm(
        self, algorithmName: str, input: Sequence[Any] = (), includeResult: bool = True
    ) -> Call:
        """Start another algorithm and go on; `result()` of what is returned waits, `await` works too."""
        data = {
            "algorithmName": str(algorithmName),
            "input": list(input),
            "includeResult": bool(includeResult),
        }
        return self._begin(self._algorithms, "execId", "startAlgorithmExecution", data, str(algorithmName))

    async def start_algorithm_async(
        self, algorithmName: str, input: Sequence[Any] = (), includeResult: bool = True
    ) -> Any:
        """As start_algorithm, for coroutines."""
        value = await self.begin_algorithm(algorithmName, input, includeResult)
        return value if includeResult else None

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

        Raises SubPipelineError, SubPipelineStopped, ApiTimeout (then it is stopped), TaskStopped.
        """
        call = self.begin_stored_subpipeline(name, flowInput, includeResult)
        return self._outcome(call, timeout, includeResult)

    def begin_stored_subpipeline(
        self, name: str, flowInput: Optional[Mapping[str, Any]] = None, includeResult: bool = True
    ) -> Call:
        """Start a stored pipeline and go on."""
        pipeline = {"name": str(name), "flowInput": dict(flowInput or {})}
        return self._begin_pipeline("startStoredSubPipeline", pipeline, includeResult)

    async def start_stored_subpipeline_async(
        self, name: str, flowInput: Optional[Mapping[str, Any]] = None, includeResult: bool = True
    ) -> Any:
        """As start_stored_subpipeline, for coroutines."""
        value = await self.begin_stored_subpipeline(name, flowInput, includeResult)
        return value if includeResult else None

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
        call = self.begin_raw_subpipeline(name, nodes, flowInput, options, webhooks, includeResult)
        return self._outcome(call, timeout, includeResult)

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

    async def start_raw_subpipeline_async(
        self,
        name: str,
        nodes: Sequence[Mapping[str, Any]],
        flowInput: Optional[Mapping[str, Any]] = None,
        options: Optional[Mapping[str, Any]] = None,
        webhooks: Optional[Mapping[str, Any]] = None,
        includeResult: bool = True,
    ) -> Any:
        """As start_raw_subpipeline, for coroutines."""
        value = await self.begin_raw_subpipeline(name, nodes, flowInput, options, webhooks, includeResult)
        return value if includeResult else None

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
        with self._lock:
            self._spans.append(str(name))
        self._send({"command": "startSpan", "data": {"name": str(name), "tags": dict(tags or {})}})

    def finish_span(self, tags: Optional[Mapping[str, Any]] = None, error: Any = None) -> None:
        """Finish the span begun last."""
        with self._lock:
            if not self._spans:
                raise ApiError("finish_span: no span was started")
            self._spans.pop()
        data: Dict[str, Any] = {"tags": dict(tags or {})}
        if error is not None:
            data["error"] = str(error)
        self._send({"command": "finishSpan", "data": data})

    @contextlib.contextmanager
    def span(self, name: str, tags: Optional[Mapping[str, Any]] = None) -> Iterator[None]:
        """A span around a block; what the block raises becomes the span's error."""
        self.start_span(name, tags)
        try:
            yield
        except BaseException as error:
            self.finish_span(error=f"{type(error).__name__}: {error}")
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

    # ---- how it works

    def _need_start(self, what: str) -> None:
        if not self._working:
            raise ApiError(f"{what} can be started while start() runs, not before and not after")

    def _begin_pipeline(self, command: str, pipeline: Dict[str, Any], include: bool) -> Call:
        self._need_start("a sub-pipeline")
        data = {"subPipeline": pipeline, "includeResult": bool(include)}
        return self._begin(self._pipelines, "subPipelineId", command, data, f"pipeline {pipeline['name']}")

    def _begin(self, table: Dict[str, Call], key: str, command: str, data: Dict[str, Any], what: str) -> Call:
        call_id = str(next(self._ids))
        call = Call(call_id, what, lambda reason: self._stop_remote(table, call_id, reason))
        with self._lock:
            if self._over or self._stopping.is_set():
                raise TaskStopped(f"{what}: the task is being stopped, or has ended", call_id)
            table[call_id] = call
        try:
            self._send({"command": command, "data": {key: call_id, **data}})
        except BaseException:
            with self._lock:
                table.pop(call_id, None)
            raise
        return call

    def _outcome(self, call: Call, timeout: Optional[float], include: bool) -> Any:
        try:
            value = call.result(timeout)
        except ApiError as error:
            if self._returned_errors and not isinstance(error, TaskStopped):
                return str(error)
            raise
        return value if include else None

    def _stop_call(self, table: Dict[str, Call], which: Any, reason: str) -> None:
        call = which if isinstance(which, Call) else table.get(str(which))
        if call is None:
            raise ApiError(f"nothing with the id {which} runs")
        call.stop(reason)

    def _stop_remote(self, table: Dict[str, Call], call_id: str, reason: str) -> None:
        with self._lock:
            known = table.pop(call_id, None)
            if known is None or self._over or table is self._sources:
                return
        if table is self._algorithms:
            data = {"execId": call_id, "reason": reason}
            self._send({"command": "stopAlgorithmExecution", "data": data})
        else:
            self._send({"command": "stopSubPipeline", "data": {"subPipelineId": call_id, "reason": reason}})

    def _answer(self, message: Mapping[str, Any]) -> None:
        """Take a message of the worker. In the control thread."""
        data = message.get("data")
        handler = getattr(self, "_on_" + _HANDLERS.get(str(message.get("command")), "other"))
        handler(data if isinstance(data, dict) else {})

    def _take(self, table: Dict[str, Call], call_id: Any) -> Optional[Call]:
        with self._lock:
            if call_id is None and table:
                # The worker leaves the id out when it could not read the request: the last one sent
                # that has no answer of any kind yet.
                open_ids = [key for key, call in table.items() if not call.started]
                call_id = open_ids[-1] if open_ids else None
            return table.pop(str(call_id), None) if call_id is not None else None

    def _settle(self, table: Dict[str, Call], call_id: Any, value: Any, error: Optional[ApiError]) -> None:
        call = self._take(table, call_id)
        if call is not None:
            if error is not None:
                error.id = call.id
                error.args = (f"{call.what}: {error}",) if not self._returned_errors else error.args
            call._settle(value, error)

    def _on_algorithm_done(self, data: Mapping[str, Any]) -> None:
        self._settle(self._algorithms, data.get("execId"), data.get("response"), None)

    def _on_algorithm_error(self, data: Mapping[str, Any]) -> None:
        self._settle(self._algorithms, data.get("execId"), None, AlgorithmExecutionError(_error_text(data)))

    def _on_pipeline_started(self, data: Mapping[str, Any]) -> None:
        with self._lock:
            call = self._pipelines.get(str(data.get("subPipelineId")))
            if call is not None:
                call.started = True

    def _on_pipeline_done(self, data: Mapping[str, Any]) -> None:
        self._settle(self._pipelines, data.get("subPipelineId"), data.get("response"), None)

    def _on_pipeline_error(self, data: Mapping[str, Any]) -> None:
        self._settle(self._pipelines, data.get("subPipelineId"), None, SubPipelineError(_error_text(data)))

    def _on_pipeline_stopped(self, data: Mapping[str, Any]) -> None:
        reason = str(data.get("reason") or "stopped")
        self._settle(self._pipelines, data.get("subPipelineId"), None, SubPipelineStopped(reason))

    def _on_data_source(self, data: Mapping[str, Any]) -> None:
        error = DataSourceError(_error_text(data)) if data.get("error") is not None else None
        self._settle(self._sources, data.get("requestId"), data.get("response"), error)

    def _on_data_source_error(self, data: Mapping[str, Any]) -> None:
        self._settle(self._sources, data.get("requestId"), None, DataSourceError(_error_text(data)))

    def _on_stream_message(self, data: Mapping[str, Any]) -> None:
        if not self._listening:
            with self._lock:
                if len(self._waiting_messages) < 1000:
                    self._waiting_messages.append(data)
            return
        threading.Thread(target=self._deliver, args=(data,), name="hkrunner-stream", daemon=True).start()

    def _deliver(self, data: Mapping[str, Any]) -> None:
        listener = self._listener
        if listener is not None:
            listener(data.get("payload"), data.get("origin"))
        self._send(
            {"command": "streamingInMessageDone", "data": {"sendMessageId": data.get("sendMessageId")}}
        )

    def _on_other(self, data: Mapping[str, Any]) -> None:
        """A message nobody here waits for."""

    def _begin_start(self) -> None:
        self._working = True

    def _stop_asked(self) -> None:
        """Release everybody who waits."""
        self._stopping.set()
        self._release("the task is being stopped")

    def _release(self, why: str) -> None:
        with self._lock:
            calls = [*self._algorithms.values(), *self._pipelines.values(), *self._sources.values()]
            self._algorithms.clear()
            self._pipelines.clear()
            self._sources.clear()
        for call in calls:
            call._settle(None, TaskStopped(f"{call.what}: {why}", call.id))

    def _end(self, error: Optional[str]) -> None:
        """The task is over: finish open spans, the last first, tell the last progress, release who waits."""
        with self._lock:
            spans, self._spans = self._spans, []
            left, self._progress_left = self._progress_left, None
        if left is not None:
            self._show_progress(float(left[0]), left[1])
        for _ in spans:
            data: Dict[str, Any] = {"tags": {}}
            if error is not None:
                data["error"] = error[:2000]
            self._send({"command": "finishSpan", "data": data})
        with self._lock:
            self._over = True
            self._working = False
        self._release("the task has ended")


_HANDLERS = {
    "algorithmExecutionDone": "algorithm_done",
    "algorithmExecutionError": "algorithm_error",
    "subPipelineStarted": "pipeline_started",
    "subPipelineDone": "pipeline_done",
    "subPipelineError": "pipeline_error",
    "subPipelineStopped": "pipeline_stopped",
    "subPiplineStopped": "pipeline_stopped",  # as HKube's documentation spells it
    "dataSourceResponse": "data_source",
    "dataSourceResponseError": "data_source_error",
    "streamingInMessage": "stream_message",
}

#: What the parent passes on to the child that waits for it.
ANSWERS = frozenset(_HANDLERS)


def _error_text(data: Mapping[str, Any]) -> str:
    """The worker puts the text in `error`, the debug server in `response`; a stalled child has none."""
    for name in ("error", "response"):
        value = data.get(name)
        if isinstance(value, dict) and value.get("message"):
            return str(value["message"])
        if value not in (None, ""):
            return str(value)
    return "it failed without a text"
