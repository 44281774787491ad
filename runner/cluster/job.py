"""A job in a cluster, from its submission to the results of its tasks.

Every method waits for the cluster. Each may raise Interrupted, where the API or the caller's `pause` does,
and HkrunnerError with one sentence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import ClusterError, HkrunnerError
from ..protocol.error_codes import CODES
from ..protocol.messages import Failure, printable
from ..protocol.result import Result
from .api import RESULT_MAX, SERVER_OUTAGE, ClusterApi, NotJson
from .job_answers import (
    COMPLETED,
    LATE_S,
    JobEnd,
    JobProgress,
    end_by_results,
    end_of,
    items_of,
    job_id_of,
    number,
    progress_of,
    stored_path,
    tasks_of,
)
from .refusals import RequestRefused
from .stored_values import json_of_shown, json_of_stored
from .transport import AnswerLost, Body

#: The first pause between two questions for the status, the factor for the next, and the longest.
FIRST_PAUSE_S, PAUSE_FACTOR, LONGEST_PAUSE_S = 0.3, 1.5, 2.0
#: When the status has not changed for this long, ask for the results: they say whether it is the last.
UNCHANGED_S = 20.0
#: How long a submission whose answer was lost is searched: the server stores a job before it answers.
SEARCH_S = 30.0


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
        """name: of its pipeline. nodes: node -> the positions of its tasks' inputs. job: its id, if known."""
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

    def connect(self) -> None:
        """Reach the cluster: its address and the login are right, and nothing was submitted yet."""
        self._api.connect()

    def submit(self, pipeline: Body) -> None:
        """Submit the job, once. An answer that is lost is replaced by a search for the job's name."""
        self.connect()
        self.may_be_submitted = True
        try:
            self.id = job_id_of(self._api.post_body("exec/raw", pipeline))
        except (AnswerLost, NotJson):
            pass  # found by its name
        except RequestRefused as error:
            # An error of the server's own (500) may come after it has stored the job.
            if error.status < 500 or not self._is_known():
                self.may_be_submitted = False
                raise
        except HkrunnerError:
            self.may_be_submitted = False
            raise
        self.find()

    def find(self) -> None:
        """Find the id of a job by its name. Raises ClusterError if the cluster does not know it."""
        until = self._clock() + SEARCH_S
        while self.id is None and not self._is_known():
            if self._clock() >= until:
                raise ClusterError(
                    f"{self._api.cluster.name} does not know the job {self.name}: its submission was most"
                    " likely lost on the way. Look again before you submit it a second time"
                )
            self._pause(LONGEST_PAUSE_S)

    def _is_known(self) -> bool:
        """Look the job up by its name, once; return whether the cluster knows it."""
        query = {"query": {"pipelineName": self.name}, "limit": 1, "fields": {"jobId": True}}
        answer = self._api.post("exec/search", query, may_repeat=True)
        hits = answer.get("hits") if isinstance(answer, dict) else None
        self.id = job_id_of(hits[0]) if isinstance(hits, list) and hits else None
        return self.id is not None

    def wait(self, on_progress: Callable[[JobProgress], None]) -> JobEnd:
        """Return how the job ended, once it has."""
        self.find()
        pause_s = FIRST_PAUSE_S
        last: dict[str, Any] = {}
        unchanged_since = self._clock()
        while True:
            status = self.status()
            end = end_of(status)
            if status != last:
                last, unchanged_since = status, self._clock()
            elif end is None and self._clock() - unchanged_since >= UNCHANGED_S:
                end, unchanged_since = self._end_by_results(), self._clock()
            if end is not None:
                return end
            on_progress(progress_of(status))
            self._pause(pause_s)
            pause_s = min(pause_s * PAUSE_FACTOR, LONGEST_PAUSE_S)

    def _end_by_results(self) -> JobEnd | None:
        """Return how the job has ended as its results say; None if there are none yet.

        The driver writes several states at once, and HKube keeps the one that arrives last in its database: a
        job that has ended may stay "active" for ever.
        """
        try:
            answer = self._api.get(
                f"exec/results/{self.id}", most=RESULT_MAX, is_outage=SERVER_OUTAGE, kind=dict
            )
        except RequestRefused as error:
            if error.status not in (400, 404):
                raise
            return None
        return end_by_results(answer)

    def status(self) -> dict[str, Any]:
        """Return the API's status object."""
        try:
            status = self._api.get(f"exec/status/{self.id}", is_outage=SERVER_OUTAGE, kind=dict)
        except RequestRefused as error:
            if error.status != 404:
                raise
            raise ClusterError(f"{self._api.cluster.name} does not know the job {self.id} any more") from None
        if not isinstance(status, dict):
            raise ClusterError(f"{self._api.cluster.name} answered with something else than a status")
        return status

    def stop(self) -> bool:
        """Stop the job; return False if there was nothing to stop: it had ended, and not by a stop."""
        if self.id is None:
            return self._stops({"pipelineName": self.name})
        if self._stops({"jobId": self.id}):
            return True
        # HKube stops what is pending, active or paused, and in another state (resumed) only if that is named.
        status = self.status()
        state = str(status.get("status"))
        # `stopped` also if our first request did it, and its answer was an error or was lost.
        return state == "stopped" or (
            end_of(status) is None and self._stops({"jobId": self.id, "statusToStop": state})
        )

    def _stops(self, named: Mapping[str, str]) -> bool:
        """Have the cluster stop the job that is named so; return False if it finds none to stop."""
        try:
            # 500 comes also where etcd has refused one of two changes at once.
            self._api.post("exec/stop", named, may_repeat=True, is_outage=SERVER_OUTAGE)
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
        items = self._by_position(items_of(self._answer_with("results", end)))
        total = sum(map(len, self._nodes.values()))
        tasks: dict[int, dict[str, Any]] = {}
        if with_times or len(items) < total:
            tasks = self._tasks(total, end)
        for node, position in self._places():
            item, task = items.pop(position, None), tasks.pop(position, {})
            yield self._result(node, position, item, task, end)

    def tasks(self, end: JobEnd) -> dict[int, dict[str, Any]]:
        """Return what the graph says about each task, by the position of its input."""
        return self._tasks(sum(map(len, self._nodes.values())), end)

    def _places(self) -> list[tuple[str, int]]:
        """Return each task's node and position, in the order of the positions."""
        places = [(position, node) for node, positions in self._nodes.items() for position in positions]
        return [(node, position) for position, node in sorted(places)]

    def _by_position(self, entries: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """Return items of a result, or tasks of a graph, by the position of their input."""
        found: dict[int, dict[str, Any]] = {}
        for entry in entries:
            positions = self._nodes.get(str(entry.get("nodeName")), [])
            index = entry.get("batchIndex", 1)
            if type(index) is int and 0 < index <= len(positions):
                found[positions[index - 1]] = entry
        return found

    def _tasks(self, total: int, end: JobEnd) -> dict[int, dict[str, Any]]:
        """Return the tasks of the graph; one of a job that has completed is waited for until it is whole."""
        until = self._clock() + LATE_S
        while True:
            found = self._by_position(tasks_of(self._answer_with("graph", end)))
            ended = sum("endTime" in one for one in found.values())
            if end.status != COMPLETED or ended >= total or self._clock() >= until:
                return found
            self._pause(1.0)

    def _answer_with(self, what: str, end: JobEnd) -> Any:
        """Return the results or the graph, for which the cluster may need a moment after the job's end.

        None for a job without: only the results of one that has completed are sure to be there.
        """
        path = f"exec/results/{self.id}" if what == "results" else f"graph/parsed/{self.id}"
        until = self._clock() + LATE_S
        while True:
            try:
                return self._api.get(path, most=RESULT_MAX, is_outage=SERVER_OUTAGE, kind=dict)
            except RequestRefused as error:
                if error.status not in (400, 404):
                    raise
                if self._clock() >= until:
                    if what == "results" and end.status == COMPLETED:
                        raise
                    return None
            self._pause(1.0)

    def _result(
        self, node: str, position: int, item: dict[str, Any] | None, task: dict[str, Any], end: JobEnd
    ) -> Result:
        start, ended = ((number(task.get(key)) or 0.0) / 1000 for key in ("startTime", "endTime"))
        result = Result(
            printable(str(task.get("taskId") or f"{self.id}/{position + 1}")),
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
        path = stored_path(item, task)
        if error is not None:
            result.status, result.failure = "failed", _failure_of(str(error))
        elif path is not None or item is not None:
            try:
                result.output = self._output(item, path)
            except ClusterError as problem:
                # The other results are there, whatever became of this one.
                message = f"STORAGE_READ_FAILED: {problem}"
                result.status, result.failure = "failed", Failure("STORAGE_READ_FAILED", message)
        elif end.status == "stopped":
            result.status = "stopped"
        else:
            why = f"HKube ended the job before this task had a result: {end.error or end.status}"
            if end.status == COMPLETED:
                why = "the job has completed, and HKube has no result of this task"
            message = f"JOB_FAILED: {why}"
            result.status, result.failure = "failed", Failure("JOB_FAILED", message)
        return result

    def _output(self, item: Mapping[str, Any] | None, path: str | None) -> bytes:
        """Return the JSON text of a result. Raises ClusterError for one that cannot be read."""
        if path is None:
            return json_of_shown(None if item is None else item.get("result"))
        try:
            data = self._api.get_bytes(f"storage/stream/{path}")
        except RequestRefused as error:
            raise ClusterError(f"{path}: {error}") from None
        return json_of_stored(data, self._api.storage_encoding)


def _failure_of(message: str) -> Failure:
    """Return the failure with hkrunner's code if the algorithm ran below hkrunner in the cluster too."""
    code = message.partition(":")[0]
    return Failure(code if code in CODES else "ALGORITHM_ERROR", message)
