"""The worker's side of the code API, for one task: other algorithms, sub-pipelines, data sources, spans.

Texts, their order and what is answered to what are the worker's (HKube core/worker lib/code-api, PROTOCOL
6): it validates with ajv, answers a request it could not read without an id, and answers a stop with
nothing at all.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from ...sandbox.codec import codec
from ..io.loop import Loop, Timer
from . import data_sources
from .pipeline import MISSING, PipelineError, Retry
from .pipeline import read as read_pipeline
from .pipeline_run import Execution, Flow
from .spans import Spans
from .task import Answer, LocalTask

#: Tasks of other algorithms that one task has running at a time; further ones wait for their turn.
AT_A_TIME = max(4, 2 * (os.cpu_count() or 1))

COMMANDS = frozenset(
    (
        "startAlgorithmExecution",
        "stopAlgorithmExecution",
        "startRawSubPipeline",
        "startStoredSubPipeline",
        "stopSubPipeline",
        "dataSourceRequest",
        "startSpan",
        "finishSpan",
    )
)


class Algorithms(Protocol):
    """The other algorithms there are."""

    def __contains__(self, name: object) -> bool: ...

    def start(
        self, task: LocalTask, on_end: Callable[[Answer], None], *, ends_on_error: bool = False
    ) -> Execution:
        """Hand the task to a sandbox of its algorithm's own; `ends_on_error`: which takes no other then."""


class NoAlgorithms:
    """There are none."""

    def __contains__(self, name: object) -> bool:
        return False

    def start(
        self, task: LocalTask, on_end: Callable[[Answer], None], *, ends_on_error: bool = False
    ) -> Execution:
        raise KeyError(task.algorithm)


@dataclass
class Offer:
    """What a local worker has for the code API."""

    algorithms: Algorithms = field(default_factory=NoAlgorithms)
    pipelines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    #: Told what was asked for and is not there, with how to give it.
    on_lack: Callable[[str], None] = lambda text: None
    #: Told of a task that is tried again.
    on_retry: Callable[[str], None] = lambda text: None


class _Held:
    """A task that waits for its turn, or runs."""

    def __init__(
        self, calls: Calls, task: LocalTask, retry: Retry | None, on_end: Callable[[Answer], None]
    ) -> None:
        self._calls = calls
        self.task = task
        self.retry = retry
        self.retries = 0
        self.on_end = on_end
        self.running: Execution | None = None
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True
        if self.running is not None:
            self.running.stop()
        else:
            self._calls.forget(self)


class Calls:
    """What one task asks; `close()` stops what it has started."""

    def __init__(
        self,
        loop: Loop,
        offer: Offer,
        task: LocalTask,
        say: Callable[[dict[str, Any]], None],
        on_problem: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._offer = offer
        self._task = task
        self._say = say
        self._on_problem = on_problem
        self._executions: dict[str, Execution | None] = {}  #: None: stopped; the id stays taken
        self._flows: dict[str, Flow] = {}
        self._expiries: dict[str, Timer] = {}  #: of those that have a ttl
        self._waiting: deque[_Held] = deque()
        self._running: set[_Held] = set()
        self._count = 0
        self._open = True
        self._spans = Spans()

    def take(self, command: str, data: Any, *, working: bool) -> None:
        """Serve one of COMMANDS. `working`: start() runs, not only init()."""
        match command:
            case "startAlgorithmExecution":
                self._start_algorithm(data)
            case "stopAlgorithmExecution":
                self._stop_algorithm(data)
            case "startRawSubPipeline" | "startStoredSubPipeline":
                self._start_pipeline(data, stored=command == "startStoredSubPipeline", working=working)
            case "stopSubPipeline":
                self._stop_pipeline(data)
            case "startSpan" | "finishSpan":
                self._span(command, data, working=working)

    def close(self) -> list[dict[str, Any]]:
        """The task is over: stop what it has started, and return its spans."""
        self._open = False
        self._waiting.clear()
        for flow in self._flows.values():
            flow.stop()
        for expiry in self._expiries.values():
            expiry.cancel()
        for one in list(self._running):
            one.stop()
        return self.spans()

    def spans(self) -> list[dict[str, Any]]:
        """Return the spans; those that are open end here."""
        return self._spans.close()

    # ---- other algorithms

    def _start_algorithm(self, data: Any) -> None:
        error = complaint(data, {"execId": "string", "algorithmName": "string"}, {"input": "array"})
        if error is not None:
            self._refuse_execution(data.get("execId") if isinstance(data, dict) else None, error)
            return
        exec_id, name = data["execId"], data["algorithmName"]
        if "input" not in data:
            self._refuse_execution(exec_id, "Cannot read properties of undefined (reading 'map')")
        elif exec_id in self._executions:
            self._refuse_execution(exec_id, f"execution {exec_id} already running")
        elif name not in self._offer.algorithms:
            self._lacks(f"algorithm {name!r}", f"--algorithm {name}=FILE.py")
            self._refuse_execution(exec_id, f"Algorithm named '{name}' does not exist")
        else:
            include = bool(data.get("includeResult"))
            self._executions[exec_id] = self._launch(
                name,
                data["input"],
                node=f"{self._task.node}:{name}",
                more={"execId": exec_id, "parentNodeName": self._task.node},
                retry=Retry("Never"),
                on_end=partial(self._execution_ended, exec_id, include),
            )

    def _execution_ended(self, exec_id: str, include: bool, answer: Answer) -> None:
        if self._executions.get(exec_id) is None:
            return  # stopped: the worker has no handler for a child that was
        del self._executions[exec_id]
        if answer.command != "done":
            text = answer.error if answer.command == "errorMessage" else "stopped"
            self._refuse_execution(exec_id, text)
            return
        told: dict[str, Any] = {"execId": exec_id}
        if include:
            if "data" in answer.message:
                told["response"] = answer.message["data"]
        else:
            told["response"] = _link(answer)
        self._say({"command": "algorithmExecutionDone", "data": told})

    def _refuse_execution(self, exec_id: Any, error: str) -> None:
        told = {"error": error} if exec_id is None else {"execId": exec_id, "error": error}
        self._say({"command": "algorithmExecutionError", "data": told})

    def _stop_algorithm(self, data: Any) -> None:
        exec_id = data.get("execId") if isinstance(data, dict) else None
        if not isinstance(exec_id, str) or exec_id not in self._executions:
            self._refuse_execution(exec_id, f"unable to find execId {exec_id}")
            return
        execution, self._executions[exec_id] = self._executions[exec_id], None
        if execution is not None:
            execution.stop()

    # ---- sub-pipelines

    def _start_pipeline(self, data: Any, *, stored: bool, working: bool) -> None:
        error = complaint(data, {"subPipelineId": "string", "subPipeline": "object"}, {})
        if error is None and not working:
            error = "No errors"  # the worker's own text for a state that is none of its working state
        if error is not None:
            self._say({"command": "subPipelineError", "data": {"error": error}})
            return
        pipeline_id, raw = data["subPipelineId"], data["subPipeline"]
        self._say({"command": "subPipelineStarted", "data": {"subPipelineId": pipeline_id}})
        try:
            pipeline = read_pipeline(self._stored(raw) if stored else raw)
            for node in pipeline.nodes:
                if node.algorithm not in self._offer.algorithms:
                    self._lacks(f"algorithm {node.algorithm!r}", f"--algorithm {node.algorithm}=FILE.py")
                    raise PipelineError(f"algorithm {node.algorithm} Not Found")
        except PipelineError as problem:
            self._refuse_pipeline(pipeline_id, str(problem))
            return
        ended = partial(self._pipeline_ended, pipeline_id, bool(data.get("includeResult")))
        self._flows[pipeline_id] = flow = Flow(pipeline, partial(self._launch_node, pipeline.name), ended)
        if pipeline.ttl_s is not None:
            expire = partial(self._expire, pipeline_id, pipeline.ttl_s)
            self._expiries[pipeline_id] = self._loop.after(pipeline.ttl_s, expire)
        flow.begin()

    def _expire(self, pipeline_id: str, ttl_s: float) -> None:
        flow = self._forget(pipeline_id)
        if flow is not None:
            flow.stop()
            told = {"subPipelineId": pipeline_id, "reason": f"pipeline expired: its ttl is {ttl_s:g} s"}
            self._say({"command": "subPipelineStopped", "data": told})

    def _forget(self, pipeline_id: str) -> Flow | None:
        """It is over, one way or the other."""
        expiry = self._expiries.pop(pipeline_id, None)
        if expiry is not None:
            expiry.cancel()
        return self._flows.pop(pipeline_id, None)

    def _stored(self, raw: dict[str, Any]) -> dict[str, Any]:
        name = raw.get("name")
        stored = self._offer.pipelines.get(name) if isinstance(name, str) else None
        if stored is None:
            self._lacks(f"pipeline {name!r}", f"--pipeline {name}=FILE.json")
            raise PipelineError(f"pipeline {name} Not Found")
        given = [one.get("flowInput") or {} for one in (stored, raw)]
        if not all(isinstance(one, dict) for one in given):
            raise PipelineError("data.flowInput should be object,null")
        flow_input = {**given[0], **given[1]}
        return {**stored, "name": name, "flowInput": flow_input, "triggers": None}

    def _launch_node(
        self,
        pipeline: str,
        algorithm: str,
        input: list[Any],
        *,
        node: str,
        batch_index: int | None,
        retry: Retry | None,
        on_end: Callable[[bool, Any], None],
    ) -> Execution:
        def ended(answer: Answer) -> None:
            if answer.command == "done":
                on_end(True, answer.message.get("data", MISSING))
            else:
                on_end(False, answer.error if answer.command == "errorMessage" else "stopped")

        more: dict[str, Any] = {} if batch_index is None else {"batchIndex": batch_index}
        if retry is not None:
            more["retry"] = {"policy": retry.policy, "limit": retry.limit}
        return self._launch(
            algorithm, input, node=node, pipeline=pipeline, more=more, retry=retry, on_end=ended
        )

    def _pipeline_ended(self, pipeline_id: str, include: bool, good: bool, value: Any) -> None:
        self._forget(pipeline_id)
        if not good:
            self._refuse_pipeline(pipeline_id, value)
            return
        response = value
        if not include:
            response = {
                "storageInfo": {"path": f"local-hkube-results/{self._task.job}-{pipeline_id}/result.json"}
            }
        self._say(
            {"command": "subPipelineDone", "data": {"response": response, "subPipelineId": pipeline_id}}
        )

    def _refuse_pipeline(self, pipeline_id: str, error: str) -> None:
        self._say({"command": "subPipelineError", "data": {"subPipelineId": pipeline_id, "error": error}})

    def _stop_pipeline(self, data: Any) -> None:
        error = complaint(data, {"subPipelineId": "string"}, {})
        if error is not None:
            self._say({"command": "subPipelineError", "data": {"error": error}})
            return
        pipeline_id = data["subPipelineId"]
        flow = self._forget(pipeline_id)
        if flow is None:
            self._refuse_pipeline(pipeline_id, f"cannot stop subPipeline - not found: {pipeline_id}")
        else:
            flow.stop()

    # ---- spans

    def _span(self, command: str, data: Any, *, working: bool) -> None:
        told = data if isinstance(data, dict) else {}
        tags = told.get("tags") if isinstance(told.get("tags"), dict) else {}
        assert isinstance(tags, dict)
        if not working:
            self._on_problem(f"`{command}` came before start; HKube's worker keeps spans of start() only")
        elif command == "startSpan":
            self._spans.start(str(told.get("name")), tags)
        else:
            error = told.get("error")
            if not self._spans.finish(tags, None if error is None else str(error)):
                self._on_problem("`finishSpan` came while no span was open; ignored")

    # ---- tasks

    def _launch(
        self,
        algorithm: str,
        input: list[Any],
        *,
        node: str,
        more: dict[str, Any],
        on_end: Callable[[Answer], None],
        pipeline: str | None = None,
        retry: Retry | None = None,
    ) -> Execution:
        self._count += 1
        task = LocalTask(
            f"{self._task.task}-{algorithm}-{self._count}",
            self._task.job,
            node,
            algorithm,
            pipeline or self._task.pipeline,
            codec.json_text(input) or b"[]",
            more,
        )
        held = _Held(self, task, retry, on_end)
        self._waiting.append(held)
        self._next()
        return held

    def _next(self) -> None:
        while self._open and self._waiting and len(self._running) < AT_A_TIME:
            held = self._waiting.popleft()
            self._running.add(held)
            # By all other policies HKube's worker ends with its algorithm, and a retry finds another pod.
            ends = held.retry is not None and held.retry.policy != Retry.policy
            ended = partial(self._ended, held)
            held.running = self._offer.algorithms.start(held.task, ended, ends_on_error=ends)

    def _ended(self, held: _Held, answer: Answer) -> None:
        self._running.discard(held)
        if self._open:
            if not held.stopped and not self._is_tried_again(held, answer):
                held.on_end(self._in_the_end(held, answer))
            self._next()

    def _is_tried_again(self, held: _Held, answer: Answer) -> bool:
        """The task has failed, and waits for its next turn."""
        retry = held.retry
        if retry is None or answer.command != "errorMessage" or held.retries >= retry.times:
            return False
        held.retries += 1
        held.running = None
        self._waiting.append(held)
        self._offer.on_retry(
            f"node {held.task.node} is in StalledState, attempts: {held.retries}/{retry.limit}"
            f" ({held.task.task}: {answer.error.splitlines()[0]})"
        )
        return True

    def _in_the_end(self, held: _Held, answer: Answer) -> Answer:
        """HKube's error for a task that was tried as often as may be names no cause; that has been told."""
        if held.retries == 0 or answer.command != "errorMessage":
            return answer
        limit = held.retry.limit if held.retry is not None else 0
        text = f"node {held.task.node} is in CrashLoopBackOff, attempts: {limit}/{limit}"
        self._offer.on_retry(f"{text} ({held.task.task}: {answer.error.splitlines()[0]})")
        return replace(answer, message={"command": "errorMessage", "error": {"message": text}})

    def forget(self, held: _Held) -> None:
        """It was stopped before its turn came."""
        if held in self._waiting:
            self._waiting.remove(held)

    def _lacks(self, what: str, how: str) -> None:
        self._offer.on_lack(
            f"task {self._task.task} asks for the {what}, which is not here: give it with {how}"
        )


def data_source(offer: Offer, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a dataSourceRequest; the worker takes one in any state."""
    told: dict[str, Any] = {"requestId": data["requestId"]} if "requestId" in data else {}
    try:
        told["response"] = data_sources.find(offer.sources, data.get("dataSource"))
    except data_sources.SourceError as error:
        if str(error).startswith("could not find"):
            name = str(error).rpartition(":")[2]
            offer.on_lack(
                f"the data source {name!r} is asked for, and not here: give it with --datasource {name}=DIR"
            )
        told["error"] = str(error)
    return {"command": "dataSourceResponse", "data": told}


def as_error(message: Mapping[str, Any], problem: str) -> dict[str, Any]:
    """Return what is said instead of an answer that cannot be sent."""
    failed = {"algorithmExecutionDone": "algorithmExecutionError", "subPipelineDone": "subPipelineError"}
    command = message["command"]
    if command not in failed and command != "dataSourceResponse":
        return dict(message)  # a text that cannot be carried as it is
    data = {key: value for key, value in message["data"].items() if key != "response"}
    return {"command": failed.get(command, command), "data": {**data, "error": problem}}


_KINDS: dict[str, type] = {"string": str, "array": list, "object": dict}


def complaint(data: Any, required: Mapping[str, str], optional: Mapping[str, str]) -> str | None:
    """Return what ajv says first of data; None when it has nothing to say."""
    if not isinstance(data, dict):
        return "data should be object"
    for name in required:
        if name not in data:
            return f"data should have required property '{name}'"
    for name, kind in {**required, **optional}.items():
        if name in data and not isinstance(data[name], _KINDS[kind]):
            return f"data.{name} should be {kind}"
        if kind == "string" and data.get(name) == "":
            return f"data.{name} should NOT be shorter than 1 characters"
    return None


def _link(answer: Answer) -> dict[str, Any]:
    """What a result that was not asked for looks like under HKube: where it is stored."""
    size = len(codec.json_text(answer.message.get("data")) or b"")
    return {
        "storageInfo": {"path": f"local-hkube/{answer.task.job}/{answer.task.task}", "size": size},
        "metadata": {},
    }
