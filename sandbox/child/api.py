"""The object passed to start(args, api): HKube's code API, with HKube's names, and some additions.

Calls may come from any thread and overlap. An answer is matched to its call by id; a call that waits is
released by its answer, its timeout, or the end of the task. Errors are raised; with `returned_errors`
(--api-errors return) they are returned instead, as HKube's own Python wrapper does.

Protocol: HKube core/worker lib/code-api. Ids are text, `input` is always a list; the worker refuses
anything else. Runs in the child, on Python 3.8 and newer.

This file has the methods that users call, api_stream.py those for streams, api_call.py a single call and its
errors, api_answers.py the calls that wait, by id, and the worker's answers to them.
"""

from __future__ import annotations

import contextlib
import time
from collections import abc
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from . import exception_fields
from .api_answers import ALGORITHM, PIPELINE, SOURCE
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
from .api_stream import StreamCalls
from .own_threads import wait_for

#: Shortest time between two progress messages to the worker; of faster ones only the last is sent.
PROGRESS_EVERY_S = 0.1


class Api(StreamCalls):
    """What an algorithm can ask of HKube and of hkrunner while a task runs."""

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
        """Whether the task is to stop; check it in long loops to end early and cleanly."""
        return self._is_stopping

    def wait_for_stop(self, timeout_s: Optional[float] = None) -> bool:
        """Wait until the task is to stop, at most this long; return whether it is."""
        return wait_for(self._stop_event(), timeout_s)

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

        Raises AlgorithmExecutionError, TaskStopped, or Timeout after `timeout` seconds; then the other
        algorithm is stopped.
        """
        return self._outcome(
            lambda: self.begin_algorithm(algorithmName, input, includeResult), timeout, includeResult
        )

    def begin_algorithm(
        self, algorithmName: str, input: Sequence[Any] = (), includeResult: bool = True
    ) -> Call:
        """Start another algorithm without waiting for it; `result()` of the returned call waits.

        In a coroutine, `await call` or `await call.wait(timeout)` waits, and stops the other algorithm when
        the coroutine is cancelled.
        """
        is_other = isinstance(input, (str, bytes, bytearray, memoryview, abc.Mapping))
        if is_other or not isinstance(input, abc.Iterable):
            # The text of HKube's worker. list() would split a string or a dict.
            kind = type(input).__name__
            raise AlgorithmExecutionError(
                f"algorithm {algorithmName}: data.input should be array: a list of arguments, not {kind}"
            )
        data = {
            "algorithmName": str(algorithmName),
            "input": list(input),
            "includeResult": bool(includeResult),
        }
        return self._begin(ALGORITHM, "startAlgorithmExecution", data, str(algorithmName))

    def stop_algorithm(self, execution: Any, reason: str = "stopped by the algorithm") -> None:
        """Stop an algorithm: `execution` is what begin_algorithm returned, or its id."""
        self._stop_call(ALGORITHM, execution, reason)

    # ---- sub-pipelines

    def start_stored_subpipeline(
        self,
        name: str,
        flowInput: Optional[Mapping[str, Any]] = None,
        includeResult: bool = True,
        *,
        timeout: Optional[float] = None,
    ) -> Any:
        """Run a stored pipeline; return its results, one item for each node without successors.

        Raises SubPipelineError, SubPipelineStopped, TaskStopped, or Timeout after `timeout` seconds; then the
        pipeline is stopped.
        """
        return self._outcome(
            lambda: self.begin_stored_subpipeline(name, flowInput, includeResult), timeout, includeResult
        )

    def begin_stored_subpipeline(
        self, name: str, flowInput: Optional[Mapping[str, Any]] = None, includeResult: bool = True
    ) -> Call:
        """Start a stored pipeline without waiting for it; see begin_algorithm()."""
        pipeline = {"name": str(name), "flowInput": _object(name, "flowInput", flowInput)}
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
        """Run a pipeline that the arguments describe; otherwise as start_stored_subpipeline()."""
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
        """Start a pipeline that the arguments describe, without waiting for it; see begin_algorithm()."""
        pipeline = {
            "name": str(name),
            "nodes": _nodes(name, nodes),
            "options": _object(name, "options", options),
            "webhooks": _object(name, "webhooks", webhooks),
            "flowInput": _object(name, "flowInput", flowInput),
        }
        return self._begin_pipeline("startRawSubPipeline", pipeline, includeResult)

    def stop_subpipeline(self, pipeline: Any, reason: str = "stopped by the algorithm") -> None:
        """Stop a pipeline: `pipeline` is what a begin_…_subpipeline method returned, or its id."""
        self._stop_call(PIPELINE, pipeline, reason)

    # ---- data sources

    def getDataSource(self, dataSource: Mapping[str, Any], *, timeout: Optional[float] = None) -> Any:
        """Return the pair (error, data source), as HKube's wrapper does.

        The error is None, because errors are raised (DataSourceError), except with `--api-errors return`.
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
        call = self._begin(SOURCE, "dataSourceRequest", data, "data source")
        return call.result(timeout)

    # ---- progress, spans, log

    def progress(self, progress: float, details: Any = None) -> None:
        """Report how far the task is, 0 to 100: hkrunner shows it, and HKube's worker logs it."""
        with self._lock:
            now = time.monotonic()
            if now - self._progressed_at < PROGRESS_EVERY_S and progress < 100:
                self._progress_left = [progress, details]
                return
            self._progressed_at, self._progress_left = now, None
        self._show_progress(progress, details)

    def start_span(self, name: str, tags: Optional[Mapping[str, Any]] = None) -> None:
        """Begin a span of the task's trace; spans nest, so the one begun last is finished first."""
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
        self._send_finish(dict(tags or {}), None if error is None else exception_fields.text_of(error))

    @contextlib.contextmanager
    def span(self, name: str, tags: Optional[Mapping[str, Any]] = None) -> Iterator[None]:
        """Make a context manager with a span around its block; an exception becomes the span's error."""
        self.start_span(name, tags)
        try:
            yield
        except BaseException as error:
            self.finish_span(error=f"{exception_fields.name_of(error)}: {exception_fields.text_of(error)}")
            raise
        self.finish_span()

    def log(self, *lines: Any) -> None:
        """Print lines and flush them."""
        for line in lines:
            print(line, flush=True)


def _nodes(pipeline: str, nodes: Any) -> List[Dict[str, Any]]:
    """Return the nodes of a pipeline. Raises SubPipelineError."""
    if not isinstance(nodes, abc.Iterable) or isinstance(nodes, (str, bytes, abc.Mapping)):
        raise SubPipelineError(f"pipeline {pipeline}: data.nodes should be array, not {type(nodes).__name__}")
    return [_object(pipeline, f"nodes[{index}]", node) for index, node in enumerate(nodes)]


def _object(pipeline: str, place: str, value: Any) -> Dict[str, Any]:
    """Return a part of a pipeline, empty for None. Raises SubPipelineError."""
    if value is None:
        return {}
    if not isinstance(value, abc.Mapping):
        kind = type(value).__name__
        raise SubPipelineError(f"pipeline {pipeline}: data.{place} should be object: a dict, not {kind}")
    return dict(value)
