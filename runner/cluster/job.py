"""A job in a cluster, from its submission to the results of its tasks.

Every method waits for the cluster. Each may raise Interrupted, where the API or the caller's `pause` does,
and HkrunnerError with one sentence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import ClusterError, HkrunnerError
from ..protocol.error_codes import CODES
from ..protocol.messages import Failure
from ..protocol.result import Result
from .api import ClusterApi
from .refusals import RequestRefused
from .stored_values import json_of_shown, json_of_stored
from .transport import AnswerLost, Body

#: Statuses after which nothing happens any more; all but the first mean that there may be no results.
COMPLETED = "completed"
FINAL = frozenset((COMPLETED, "failed", "stopped", "crashed", "stalled"))
#: The first pause between two questions for the status, the factor for the next, and the longest.
FIRST_PAUSE_S, PAUSE_FACTOR, LONGEST_PAUSE_S = 0.3, 1.5, 2.0
#: How long a submission whose answer was lost is searched: the server stores a job before it answers.
SEARCH_S = 30.0
#: How long results and graph may come after the status: the cluster writes them one after the other.
LATE_S = 5.0


class JobEnd(NamedTuple):
    """How a job ended."""

    status: str  #: one of FINAL
    took_s: float | None
    error: str | None  #: of the whole job, or the reason of a stop


class JobProgress(NamedTuple):
    """How far a job is."""

    percent: float | None
    details: str  #: in HKube's words: "1 active, 3 succeed"


class ClusterJob:
    """One job: what it runs, and its id once it is known."""

    def __init__(
        self,
        api: ClusterApi,
        name: str,
        nodes: Mapping[str, list[int]],
        job: str | None = None,
        *,
        pause: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """name: of its pipeline. nodes: node -> the positions of the inputs that its tasks have."""
        self._api = api
        self.name = name
        self._nodes = nodes
        self.id = job
        self._pause = pause
        self._clock = clock
        self.may_be_submitted = job is not None  #: whether the cluster may have got it

    @property
    def shown(self) -> str:
        """The job's id, or its name until that is known."""
        return self.id or self.name

    def submit(self, pipeline: Body) -> None:
        """Submit the job, once. An answer that is lost is replaced by a search for the job's name."""
        _ = self._api.storage  # the address and the login are right, before anything is submitted
        self.may_be_submitted = True
        try:
            answer = self._api.post_body("exec/raw", pipeline)
        except AnswerLost:
            self.find()
            return
        except HkrunnerError:
            self.may_be_submitted = False
            raise
        found = answer.get("jobId") if isinstance(answer, dict) else None
        if not isinstance(found, str):
            raise ClusterError(f"{self._api.cluster.name} answered the submission without a job id")
        self.id = found

    def find(self) -> None:
        """Find the id of a job by its name. Raises ClusterError if the cluster does not know it."""
        if self.id is not None:
            return
        until = self._clock() + SEARCH_S
        query = {"query": {"pipelineName": self.name}, "limit": 1, "fields": {"jobId": True}}
        while True:
            answer = self._api.post("exec/search", query, may_repeat=True)
            hits = answer.get("hits") if isinstance(answer, dict) else None
            if hits and isinstance(hits[0].get("jobId"), str):
                self.id = hits[0]["jobId"]
                return
            if self._clock() >= until:
                raise ClusterError(
                    f"{self._api.cluster.name} has no job {self.name}: its submission did not get there, so"
                    " nothing was run"
                )
            self._pause(LONGEST_PAUSE_S)

    def wait(self, on_progress: Callable[[JobProgress], None]) -> JobEnd:
        """Return how the job ended, once it has."""
        self.find()
        pause_s = FIRST_PAUSE_S
        while True:
            status = self.status()
            if status.get("status") in FINAL:
                took = status.get("grossTimeTook")
                words = status.get("error") or status.get("reason")
                return JobEnd(
                    str(status["status"]),
                    float(took) if isinstance(took, int | float) else None,
                    None if words is None else str(words),
                )
            on_progress(_progress_of(status))
            self._pause(pause_s)
            pause_s = min(pause_s * PAUSE_FACTOR, LONGEST_PAUSE_S)

    def status(self) -> dict[str, Any]:
        """Return the API's status object."""
        try:
            status = self._api.get(f"exec/status/{self.id}")
        except RequestRefused as error:
            if error.status != 404:
                raise
            raise ClusterError(f"{self._api.cluster.name} does not know the job {self.id} any more") from None
        if not isinstance(status, dict):
            raise ClusterError(f"{self._api.cluster.name} answered with something else than a status")
        return status

    def stop(self, reason: str) -> bool:
        """Stop the job; return False if there was nothing to stop."""
        named = {"jobId": self.id} if self.id is not None else {"pipelineName": self.name}
        try:
            self._api.post("exec/stop", named, may_repeat=True)
        except RequestRefused as error:
            if error.status != 404:
                raise
            return False
        return True

    # ---- results

    def results(self, end: JobEnd, *, with_times: bool) -> Iterator[Result]:
        """Yield the result of each task, in the order of the inputs.

        with_times: whether they need the tasks' ids and times, which is one more request.
        """
        answer = self._when_written(lambda: self._api.get(f"exec/results/{self.id}"))
        items = self._by_position(answer.get("data") if isinstance(answer, dict) else None)
        del answer
        total = sum(map(len, self._nodes.values()))
        tasks: dict[int, dict[str, Any]] = {}
        if with_times or len(items) < total:
            tasks = self._tasks(total, is_whole=end.status == COMPLETED)
        for node, position in self._places():
            item, task = items.pop(position, None), tasks.pop(position, {})
            yield self._result(node, position, item, task, end)

    def _places(self) -> list[tuple[str, int]]:
        """Return each task's node and position, in the order of the positions."""
        places = [(position, node) for node, positions in self._nodes.items() for position in positions]
        return [(node, position) for position, node in sorted(places)]

    def _by_position(self, entries: Any) -> dict[int, dict[str, Any]]:
        """Return items of a result, or tasks of a graph, by the position of their input."""
        found: dict[int, dict[str, Any]] = {}
        for entry in entries if isinstance(entries, list) else ():
            positions = self._nodes.get(entry.get("nodeName"), [])
            index = entry.get("batchIndex", 1)
            if isinstance(index, int) and 0 < index <= len(positions):
                found[positions[index - 1]] = entry
        return found

    def _tasks(self, total: int, *, is_whole: bool) -> dict[int, dict[str, Any]]:
        """Return the tasks of the graph; one of a job that has completed is waited for until it is whole."""
        until = self._clock() + LATE_S
        while True:
            graph = self._when_written(lambda: self._api.get(f"graph/parsed/{self.id}"))
            entries = []
            for node in graph.get("nodes") or () if isinstance(graph, dict) else ():
                batch = node.get("batch")
                members = batch if isinstance(batch, list) and batch else [node]
                entries += [{"nodeName": node.get("nodeName"), **one} for one in members]
            found = self._by_position(entries)
            ended = sum("endTime" in one for one in found.values())
            if not is_whole or ended >= total or self._clock() >= until:
                return found
            self._pause(1.0)

    def _when_written(self, ask: Callable[[], Any]) -> Any:
        """Return the answer, for which the cluster may need a moment after the job's end."""
        until = self._clock() + LATE_S
        while True:
            try:
                return ask()
            except RequestRefused as error:
                if error.status not in (400, 404) or self._clock() >= until:
                    raise
            self._pause(1.0)

    def _result(
        self, node: str, position: int, item: dict[str, Any] | None, task: dict[str, Any], end: JobEnd
    ) -> Result:
        start, ended = (float(task.get(key) or 0.0) / 1000 for key in ("startTime", "endTime"))
        result = Result(
            str(task.get("taskId") or f"{self.id}/{position + 1}"),
            self.shown,
            node,
            self.name,
            "succeed",
            start,
            ended,
            max(0.0, ended - start),
            position=position,
        )
        error = (item or task).get("error")
        path = _stored_path(item, task)
        if error is not None:
            result.status, result.failure = "failed", _failure_of(str(error))
        elif path is not None:
            data = self._api.get_bytes(f"storage/stream/{path}")
            result.output = json_of_stored(data, self._api.storage.encoding)
        elif item is not None:
            result.output = json_of_shown(item.get("result"))
        elif end.status == "stopped":
            result.status = "stopped"
        else:
            why = end.error or end.status
            message = f"JOB_FAILED: HKube ended the job before this task had a result: {why}"
            result.status, result.failure = "failed", Failure("JOB_FAILED", message)
        return result


def _progress_of(status: Mapping[str, Any]) -> JobProgress:
    data = status.get("data")
    told = data if isinstance(data, dict) else {}
    percent = told.get("progress")
    details = str(told.get("details") or status.get("status") or "")
    head, comma, rest = details.partition(", ")
    return JobProgress(
        float(percent) if isinstance(percent, int | float) else None,
        rest if comma and head.endswith("completed") else details,
    )


def _stored_path(item: Mapping[str, Any] | None, task: Mapping[str, Any]) -> str | None:
    """Return where the result is stored, if the API does not show it: it is large, or the job has failed."""
    if item is not None:
        info = item.get("info")
        path = info.get("path") if isinstance(info, dict) else None
    else:
        output = task.get("output") if task.get("status") == "succeed" else None
        stored = output.get("storageInfo") if isinstance(output, dict) else None
        path = stored.get("path") if isinstance(stored, dict) else None
    return path if isinstance(path, str) else None


def _failure_of(message: str) -> Failure:
    """Return the failure with hkrunner's code if the algorithm ran below hkrunner in the cluster too."""
    code = message.partition(":")[0]
    return Failure(code if code in CODES else "ALGORITHM_ERROR", message)
