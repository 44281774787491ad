"""The worker's side of the code API, for one task: other algorithms, sub-pipelines, data sources, spans.

The answers, their texts and their order are those of HKube's worker (core/worker lib/code-api):
it validates with ajv, answers a request that it cannot read without an id, and does not answer a stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ...sandbox.codec import codec
from ..io.loop import Loop, Timer
from . import data_sources
from .catalog import DEPTH_MAX, Catalog, Execution
from .pipeline import MISSING, Node, PipelineError, Retry
from .pipeline import read as read_pipeline
from .pipeline_run import PipelineRun
from .spans import Spans
from .subtasks import Subtask
from .task import Answer, LocalTask


class CodeApi:
    """The code API of one task; close() stops everything that the task has started."""

    def __init__(
        self,
        loop: Loop,
        catalog: Catalog,
        task: LocalTask,
        say: Callable[[dict[str, Any]], None],
        on_problem: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._catalog = catalog
        self._task = task
        self._say = say
        self._on_problem = on_problem
        self._executions: dict[str, Execution | None] = {}  #: None: stopped, but its id stays in use
        self._pipelines: dict[str, PipelineRun] = {}
        self._expiries: dict[str, Timer] = {}  #: by the id of a pipeline that has a ttl
        self._subtasks: set[Subtask] = set()
        self._count = 0
        self._spans = Spans()

    def handle(self, command: str, data: Any, *, working: bool) -> None:
        """Serve a call of the code API except a dataSourceRequest. working: start() runs, not only init()."""
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
        """Stop everything the task has started; return its spans."""
        for expiry in self._expiries.values():
            expiry.cancel()
        for subtask in self._subtasks:
            subtask.stop()
        return self.spans()

    def spans(self) -> list[dict[str, Any]]:
        """End the open spans; return all of them."""
        return self._spans.close()

    # ---- other algorithms

    def _start_algorithm(self, data: Any) -> None:
        error = schema_error(data, {"execId": "string", "algorithmName": "string"}, {"input": "array"})
        if error is not None:
            self._refuse_execution(data.get("execId") if isinstance(data, dict) else None, error)
            return
        exec_id, name = data["execId"], data["algorithmName"]
        if "input" not in data:
            self._refuse_execution(exec_id, "Cannot read properties of undefined (reading 'map')")
        elif (error := self._too_deep()) is not None:
            self._refuse_execution(exec_id, error)
        elif exec_id in self._executions:
            self._refuse_execution(exec_id, f"execution {exec_id} already running")
        elif name not in self._catalog.algorithms:
            self._report_missing(f"algorithm {name!r}", f"--algorithm {name}=FILE.py")
            self._refuse_execution(exec_id, f"Algorithm named '{name}' does not exist")
        else:
            try:
                input = codec.as_json(data["input"], "input")
            except codec.ResultInvalid as problem:
                self._refuse_execution(exec_id, str(problem))
                return
            include = bool(data.get("includeResult"))
            self._executions[exec_id] = self._start(
                name,
                input,
                node=f"{self._task.node}:{name}",
                more={"execId": exec_id, "parentNodeName": self._task.node},
                retry=Retry("Never"),
                on_end=partial(self._execution_ended, exec_id, include),
            )

    def _execution_ended(self, exec_id: str, include: bool, answer: Answer) -> None:
        if self._executions.get(exec_id) is None:
            return  # stopped: the worker reports nothing more of it
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
        error = schema_error(data, {"subPipelineId": "string", "subPipeline": "object"}, {})
        if error is None and not working:
            error = "No errors"  # the worker's own text for any other state
        if error is not None:
            self._say({"command": "subPipelineError", "data": {"error": error}})
            return
        pipeline_id, raw = data["subPipelineId"], data["subPipeline"]
        self._say({"command": "subPipelineStarted", "data": {"subPipelineId": pipeline_id}})
        try:
            if (error := self._too_deep()) is not None:
                raise PipelineError(error)
            pipeline = read_pipeline(self._stored(raw) if stored else raw)
            for node in pipeline.nodes:
                if node.algorithm not in self._catalog.algorithms:
                    self._report_missing(
                        f"algorithm {node.algorithm!r}", f"--algorithm {node.algorithm}=FILE.py"
                    )
                    raise PipelineError(f"algorithm {node.algorithm} Not Found")
        except PipelineError as problem:
            self._refuse_pipeline(pipeline_id, str(problem))
            return
        ended = partial(self._pipeline_ended, pipeline_id, bool(data.get("includeResult")))
        run = PipelineRun(pipeline, partial(self._start_node, pipeline.name), ended)
        self._pipelines[pipeline_id] = run
        if pipeline.ttl_s is not None:
            expire = partial(self._expire, pipeline_id, pipeline.ttl_s)
            self._expiries[pipeline_id] = self._loop.after(pipeline.ttl_s, expire)
        run.begin()

    def _expire(self, pipeline_id: str, ttl_s: float) -> None:
        run = self._forget(pipeline_id)
        if run is not None:
            run.stop()
            told = {"subPipelineId": pipeline_id, "reason": f"pipeline expired: its ttl is {ttl_s:g} s"}
            self._say({"command": "subPipelineStopped", "data": told})

    def _forget(self, pipeline_id: str) -> PipelineRun | None:
        """Remove the run and its timer; return the run, or None for an unknown id."""
        expiry = self._expiries.pop(pipeline_id, None)
        if expiry is not None:
            expiry.cancel()
        return self._pipelines.pop(pipeline_id, None)

    def _stored(self, raw: dict[str, Any]) -> dict[str, Any]:
        name = raw.get("name")
        stored = self._catalog.pipelines.get(name) if isinstance(name, str) else None
        if stored is None:
            self._report_missing(f"pipeline {name!r}", f"--pipeline {name}=FILE.json")
            raise PipelineError(f"pipeline {name} Not Found")
        inputs = [one.get("flowInput") or {} for one in (stored, raw)]
        if not all(isinstance(one, dict) for one in inputs):
            raise PipelineError("data.flowInput should be object,null")
        flow_input = {**inputs[0], **inputs[1]}
        return {**stored, "name": name, "flowInput": flow_input, "triggers": None}

    def _start_node(
        self,
        pipeline: str,
        node: Node,
        input: bytes,
        *,
        batch_index: int | None,
        on_end: Callable[[bool, Any], None],
    ) -> Execution:
        def ended(answer: Answer) -> None:
            if answer.command == "done":
                on_end(True, answer.message.get("data", MISSING))
            else:
                on_end(False, answer.error if answer.command == "errorMessage" else "stopped")

        more: dict[str, Any] = {} if batch_index is None else {"batchIndex": batch_index}
        if node.retry is not None:
            more["retry"] = {"policy": node.retry.policy, "limit": node.retry.limit}
        if node.ttl_s is not None:
            more["ttl"] = int(node.ttl_s)
        return self._start(
            node.algorithm,
            input,
            node=node.name,
            pipeline=pipeline,
            more=more,
            retry=node.retry,
            on_end=ended,
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
        error = schema_error(data, {"subPipelineId": "string"}, {})
        if error is not None:
            self._say({"command": "subPipelineError", "data": {"error": error}})
            return
        pipeline_id = data["subPipelineId"]
        run = self._forget(pipeline_id)
        if run is None:
            self._refuse_pipeline(pipeline_id, f"cannot stop subPipeline - not found: {pipeline_id}")
        else:
            run.stop()

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

    def _start(
        self,
        algorithm: str,
        input: bytes,
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
            input,
            more,
            depth=self._task.depth + 1,
        )

        def ended(answer: Answer) -> None:
            self._subtasks.discard(subtask)
            on_end(answer)

        subtask = Subtask(self._catalog, task, retry, ended)
        self._subtasks.add(subtask)
        self._catalog.slots.request(subtask)
        return subtask

    def _too_deep(self) -> str | None:
        """Return why this task may start no other one; None when it may."""
        if self._task.depth < DEPTH_MAX:
            return None
        error = (
            f"task {self._task.task} is at the end of a chain of {DEPTH_MAX} tasks that started each other; "
            "hkrunner's local worker allows no longer chain"
        )
        self._on_problem(error)
        return error

    def _report_missing(self, what: str, how: str) -> None:
        self._catalog.on_missing(
            f"task {self._task.task} asks for the {what}, which this run does not have: add {how}"
        )


def data_source(catalog: Catalog, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a dataSourceRequest; the worker answers one in any state."""
    told: dict[str, Any] = {"requestId": data["requestId"]} if "requestId" in data else {}
    try:
        told["response"] = data_sources.find(catalog.sources, data.get("dataSource"))
    except data_sources.SourceError as error:
        if str(error).startswith("could not find"):
            name = str(error).rpartition(":")[2]
            catalog.on_missing(
                f"a task asks for the data source {name!r}, which this run does not have: "
                f"add --datasource {name}=DIR"
            )
        told["error"] = str(error)
    return {"command": "dataSourceResponse", "data": told}


def as_error(message: Mapping[str, Any], problem: str) -> dict[str, Any]:
    """Return the message that replaces an answer that cannot be encoded."""
    failed = {"algorithmExecutionDone": "algorithmExecutionError", "subPipelineDone": "subPipelineError"}
    command = message["command"]
    if command not in failed and command != "dataSourceResponse":
        return dict(message)  # encoded less strictly by the caller
    data = {key: value for key, value in message["data"].items() if key != "response"}
    return {"command": failed.get(command, command), "data": {**data, "error": problem}}


_KINDS: dict[str, type] = {"string": str, "array": list, "object": dict}


def schema_error(data: Any, required: Mapping[str, str], optional: Mapping[str, str]) -> str | None:
    """Return the first error that ajv reports for data, or None."""
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
    """Return where HKube stores a result: the answer to a caller that did not ask for the result itself."""
    size = len(codec.json_text(answer.message.get("data")) or b"")
    return {
        "storageInfo": {"path": f"local-hkube/{answer.task.job}/{answer.task.task}", "size": size},
        "metadata": {},
    }
