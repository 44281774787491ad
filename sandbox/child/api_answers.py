"""The calls of one task that wait for the worker, and what becomes of each of its answers.

The half of the api object that users do not see: api.py builds on it. Runs in the child, on Python 3.8 and
newer.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import traceback
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Tuple, Type, Union

from ..codec import codec, large_values
from . import exception_fields
from .api_call import (
    AlgorithmExecutionError,
    ApiError,
    Call,
    DataSourceError,
    SubPipelineError,
    SubPipelineStopped,
    TaskStopped,
)
from .own_threads import RLock, new_thread

if TYPE_CHECKING:
    from .task_reports import TaskReports

#: The kinds of calls: what the worker calls the id of one.
ALGORITHM, PIPELINE, SOURCE = "execId", "subPipelineId", "requestId"
#: Details of a progress up to this size are sent as they are.
PROGRESS_DETAILS_MAX = 16 * 1024


class Calls:
    """What one task has asked of the worker; each call is answered, stopped or released with the task."""

    #: One counter for the life of the process: an answer to an old task's call fits no new call.
    _ids = itertools.count(1)
    _is_stopping = False
    _stop_waits: Optional[threading.Event] = None  #: set by the stop; made if a thread waits for it
    _progressed_at = float("-inf")
    _progress_left: Optional[List[Any]] = None
    _listener: Optional[Callable[..., Any]] = None
    _listening = False
    _working = False
    _over = False

    # Most of the above is never set for a task of a millisecond.
    def __init__(self, reports: TaskReports, task: int, *, returned_errors: bool = False) -> None:
        """`reports` sends the messages of this task."""
        self._reports = reports
        self._task = task
        self._returned_errors = returned_errors
        self._lock = RLock()  # a signal handler may call the api in the middle of a call
        self._calls: Dict[str, Call] = {}  #: those that wait, by id
        self._spans: List[str] = []
        self._waiting_messages: List[Mapping[str, Any]] = []

    def _send(self, message: Dict[str, Any]) -> None:
        self._reports.send_api_call(self._task, message)

    def _need_start(self, what: str) -> None:
        if not self._working:
            raise ApiError(f"{what} can be started while start() runs, not before and not after")

    def _begin_pipeline(self, command: str, pipeline: Dict[str, Any], include: bool) -> Call:
        self._need_start("a sub-pipeline")
        data = {"subPipeline": pipeline, "includeResult": bool(include)}
        return self._begin(PIPELINE, command, data, f"pipeline {pipeline['name']}")

    def _begin(self, kind: str, command: str, data: Dict[str, Any], what: str) -> Call:
        call_id = str(next(self._ids))
        call = Call(call_id, kind, what, lambda reason: self._stop_remote(call_id, reason))
        with self._lock:
            if self._over or self._is_stopping:
                raise TaskStopped(f"{what}: the task is being stopped, or has ended", call_id)
            self._calls[call_id] = call
        try:
            self._send({"command": command, "data": {kind: call_id, **data}})
        except BaseException:
            with self._lock:
                self._calls.pop(call_id, None)
            raise
        return call

    def _outcome(self, begin: Callable[[], Call], timeout: Optional[float], include: bool) -> Any:
        try:
            value = begin().result(timeout)
        except ApiError as error:
            return self._returned(error)
        return value if include else None

    def _returned(self, error: ApiError) -> str:
        """Return the text of the error where that is asked for, else raise it."""
        if self._returned_errors and not isinstance(error, TaskStopped):
            return str(error)
        raise error

    def _stop_call(self, kind: str, which: Any, reason: str) -> None:
        call = which if isinstance(which, Call) else self._call(kind, str(which))
        if call is None:
            raise ApiError(f"nothing with the id {which} runs")
        call.stop(reason)

    def _call(self, kind: str, call_id: str) -> Optional[Call]:
        """Return the call that waits with this id, if it is of this kind."""
        call = self._calls.get(call_id)
        return call if call is not None and call.kind == kind else None

    def _stop_remote(self, call_id: str, reason: str) -> None:
        with self._lock:
            call = self._calls.pop(call_id, None)
            if call is None or self._over or call.kind == SOURCE:
                return
        if call.kind == ALGORITHM:
            data = {"execId": call_id, "reason": reason}
            self._send({"command": "stopAlgorithmExecution", "data": data})
        else:
            self._send({"command": "stopSubPipeline", "data": {"subPipelineId": call_id, "reason": reason}})

    def _answer(self, message: Mapping[str, Any]) -> None:
        """Take a message of the worker. In the control thread."""
        command, told = str(message.get("command")), message.get("data")
        data = told if isinstance(told, dict) else {}
        if command in _ENDINGS:
            kind, error_of = _ENDINGS[command]
            self._end_call(kind, data.get(kind), data.get("response"), error_of(data))
        elif command == _STARTED:
            self._pipeline_started(data)
        elif command == _STREAM:
            self._on_stream_message(data)

    def _cannot_read(self, edges: bytes, size: int, problem: BaseException) -> None:
        """End the calls that an unreadable answer may belong to; `edges`: its beginning and its end.

        In the control thread.
        """
        found = _CALL_ID.search(edges)
        with self._lock:
            waiting = list(self._calls.values())
            if found is not None:
                # This is the usual case: the worker puts the id in front of the answer.
                call = self._call(found.group(1).decode(), found.group(2).decode())
                waiting = [call] if call is not None else []
            for call in waiting:
                del self._calls[call.id]
        for call in waiting:
            call._set_outcome(None, _unreadable(call, size, problem))

    def _pop(self, kind: str, call_id: Any) -> Optional[Call]:
        with self._lock:
            if call_id is None:
                # The worker leaves the id out when it could not read the request: the last one sent
                # that has no answer of any kind yet.
                waiting = [call for call in self._calls.values() if call.kind == kind and not call.started]
                call = waiting[-1] if waiting else None
            else:
                call = self._call(kind, str(call_id))
            return self._calls.pop(call.id) if call is not None else None

    def _end_call(self, kind: str, call_id: Any, value: Any, error: Optional[ApiError]) -> None:
        call = self._pop(kind, call_id)
        if call is not None:
            if error is not None:
                error.id = call.id
                error.args = (f"{call.what}: {error}",) if not self._returned_errors else error.args
            call._set_outcome(value, error)

    def _pipeline_started(self, data: Mapping[str, Any]) -> None:
        with self._lock:
            call = self._call(PIPELINE, str(data.get(PIPELINE)))
            if call is not None:
                call.started = True

    def _on_stream_message(self, data: Mapping[str, Any]) -> None:
        with self._lock:
            if not self._listening:
                if len(self._waiting_messages) < 1000:
                    self._waiting_messages.append(data)
                return
        try:
            new_thread(self._deliver, (data,), "hkrunner-stream").start()
        except (RuntimeError, MemoryError):  # no thread is left: the message is lost, and this thread goes on
            traceback.print_exc()
            self._say_delivered(data)

    def _deliver(self, data: Mapping[str, Any]) -> None:
        listener = self._listener
        if listener is not None:
            try:
                listener(data.get("payload"), data.get("origin"))
            except Exception:  # noqa: BLE001 - the edge of user code: it is shown, and the stream goes on
                traceback.print_exc()
        self._say_delivered(data)

    def _say_delivered(self, data: Mapping[str, Any]) -> None:
        self._send(
            {"command": "streamingInMessageDone", "data": {"sendMessageId": data.get("sendMessageId")}}
        )

    def _show_progress(self, value: float, details: Any) -> None:
        self._reports.send_progress(self._task, float(value), _short_details(details))

    def _begin_start(self) -> None:
        self._working = True

    def _stop_asked(self) -> None:
        """Release every thread that waits for a call, or for the stop."""
        with self._lock:
            self._is_stopping = True
            if self._stop_waits is not None:
                self._stop_waits.set()
        self._release("the task is being stopped")

    def _stop_event(self) -> threading.Event:
        """Return what is set once the task is to stop. Few tasks wait for it, and making it takes 2 µs."""
        with self._lock:
            if self._stop_waits is None:
                self._stop_waits = threading.Event()
                if self._is_stopping:
                    self._stop_waits.set()
            return self._stop_waits

    def _release(self, why: str) -> None:
        with self._lock:
            calls, self._calls = self._calls, {}
        for call in calls.values():
            call._set_outcome(None, TaskStopped(f"{call.what}: {why}", call.id))

    def _end(self, error: Optional[str]) -> None:
        """Finish open spans, the last first, send the last progress, release calls that wait."""
        with self._lock:  # no call begins from here on
            self._over, self._working = True, False
            spans, left = self._spans, self._progress_left
            self._spans, self._progress_left = [], None
        if left is not None:
            self._show_progress(left[0], left[1])
        for _ in spans:
            self._send_finish({}, error)
        if self._calls:
            self._release("the task has ended")

    def _send_finish(self, tags: Dict[str, Any], error: Optional[str]) -> None:
        data: Dict[str, Any] = {"tags": tags}
        if error is not None:
            # bson and msgpack carry no lone surrogates, and every error must be sent.
            data["error"] = error[:2000].encode("utf-8", "backslashreplace").decode()
        self._send({"command": "finishSpan", "data": data})


def _no_error(data: Mapping[str, Any]) -> Optional[ApiError]:
    return None


def _stopped(data: Mapping[str, Any]) -> Optional[ApiError]:
    return SubPipelineStopped(str(data.get("reason") or "stopped"))


def _error(error: Type[ApiError]) -> Callable[[Mapping[str, Any]], Optional[ApiError]]:
    return lambda data: error(_error_text(data))


def _source_error(data: Mapping[str, Any]) -> Optional[ApiError]:
    return DataSourceError(_error_text(data)) if data.get("error") is not None else None


#: Answers that end a call: the name of its id, and the error that it ends with.
_ENDINGS: Dict[str, Tuple[str, Callable[[Mapping[str, Any]], Optional[ApiError]]]] = {
    "algorithmExecutionDone": (ALGORITHM, _no_error),
    "algorithmExecutionError": (ALGORITHM, _error(AlgorithmExecutionError)),
    "subPipelineDone": (PIPELINE, _no_error),
    "subPipelineError": (PIPELINE, _error(SubPipelineError)),
    "subPipelineStopped": (PIPELINE, _stopped),
    "subPiplineStopped": (PIPELINE, _stopped),  # as HKube's documentation spells it
    "dataSourceResponse": (SOURCE, _source_error),
    "dataSourceResponseError": (SOURCE, _error(DataSourceError)),
}
_STARTED, _STREAM = "subPipelineStarted", "streamingInMessage"
#: What is handled here: the commands of shared/code_api.ANSWERS, which the parent passes on.
HANDLED = frozenset((*_ENDINGS, _STARTED, _STREAM))

#: An id made by Calls, in a message of any encoding; it is text, so its length or a quote stands before it.
_CALL_ID = re.compile(rb"(execId|subPipelineId|requestId)[^0-9A-Za-z]{1,12}([0-9]{1,18})(?![0-9])")


def _short_details(value: Any) -> Any:
    """Return what fits into a message to the parent: the value as JSON has it, or its text."""
    try:
        plain = None if large_values.is_large(value) else codec.plain(value, "json", "details")
        if plain is not None and len(json.dumps(plain)) <= PROGRESS_DETAILS_MAX:
            return plain
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - whatever the user's own types do when they are looked at
        pass
    if value is None:
        return None
    return exception_fields.cut(exception_fields.text_of(value), PROGRESS_DETAILS_MAX // 12)


def _unreadable(call: Call, size: int, problem: BaseException) -> Union[ApiError, MemoryError]:
    if isinstance(problem, MemoryError):
        return MemoryError(f"{call.what}: its answer of {size:,} bytes does not fit into memory")
    return ApiError(f"{call.what}: its answer of {size:,} bytes cannot be read: {problem}", call.id)


def _error_text(data: Mapping[str, Any]) -> str:
    """The worker puts the text in `error`, the debug server in `response`; a stalled child has none."""
    for name in ("error", "response"):
        value = data.get(name)
        if isinstance(value, dict) and value.get("message"):
            return str(value["message"])
        if value not in (None, ""):
            return str(value)
    return "it failed without a text"
