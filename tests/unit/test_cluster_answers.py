"""What hkrunner makes of the answers of a cluster: those of HKube, and those that are something else."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hkrunner.runner.app.cluster_run import ClusterRun
from hkrunner.runner.cli import algorithm
from hkrunner.runner.cluster.address import Cluster
from hkrunner.runner.cluster.algorithm_store import AlgorithmStore
from hkrunner.runner.cluster.api import ClusterApi, json_body
from hkrunner.runner.cluster.job import ClusterJob
from hkrunner.runner.cluster.job_answers import JobEnd, JobProgress, progress_of
from hkrunner.runner.cluster.job_tasks import cluster_tasks
from hkrunner.runner.cluster.refusals import RequestRefused
from hkrunner.runner.cluster.stored_values import json_of_stored
from hkrunner.runner.console.task_report import ProgressLog
from hkrunner.runner.errors import ClusterError, HkrunnerError
from support.clock import Clock
from support.hkube_api import Fault, HkubeApi


class Answers:
    """An API with fixed answers, by the first part of the path."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.cluster = Cluster("lab", "http://lab")
        self.storage_encoding = "json"

    def connect(self) -> None: ...

    def get(self, path: str, **_: object) -> Any:
        return self.answers[path.rpartition("/")[0]]

    def post(self, path: str, *_: object, **__: object) -> Any:
        return self.answers[path]

    post_body = post

    def get_bytes(self, _: str) -> bytes:
        value = self.answers["stored"]
        assert isinstance(value, bytes)
        return value


def job_with(answers: dict[str, Any]) -> ClusterJob:
    clock = Clock()

    def pause(seconds: float) -> None:
        clock.now += seconds
        if clock.now > 1000:
            raise ClusterError("it has waited long enough")

    return ClusterJob(Answers(answers), "sq-1", {"sq": [0, 1]}, pause=pause, clock=clock)  # type: ignore[arg-type]


GOOD: dict[str, Any] = {
    "exec/raw": {"jobId": "job1"},
    "exec/search": {"hits": [{"jobId": "job1"}]},
    "exec/status": {
        "status": "completed",
        "grossTimeTook": 0.5,
        "error": None,
        "data": {"progress": 100, "details": "100% completed"},
    },
    "exec/results": {
        "data": [
            {"nodeName": "sq", "batchIndex": 1, "result": {"type": "Buffer", "data": [1]}},
            {"nodeName": "sq", "batchIndex": 2, "info": {"path": "a/b", "isBigData": True}},
        ]
    },
    "graph/parsed": {
        "nodes": [
            {
                "nodeName": "sq",
                "batch": [
                    {"taskId": "t1", "batchIndex": 1, "startTime": 1, "endTime": 2, "status": "succeed"},
                    {"taskId": "t2", "batchIndex": 2, "output": {"storageInfo": {"path": "x"}}},
                ],
            }
        ]
    },
    "stored": b"7",
}
PIPELINE = {
    "name": "sq-1",
    "nodes": [{"nodeName": "sq", "algorithmName": "sq", "input": ["#@flowInput.a"]}],
    "flowInput": {"a": [3]},
}
#: In the place of every value.
JUNK: list[Any] = [
    None,
    True,
    "",
    "\x1b[31m/..",
    -1,
    1e308,
    float("nan"),
    10**400,
    [],
    [[1]],
    {},
    {"a": [None]},
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from _places(value[key], (*path, key))


def _run(answers: dict[str, Any]) -> list[str]:
    job = job_with(answers)
    job.submit(json_body(b"{}"))
    end = job.wait(lambda progress: None)
    assert end.took_s is None or f"{end.took_s:.2f}"
    found = list(job.results(end, with_times=True))
    assert [one.position for one in found] == [0, 1]
    return [one.status for one in found]


def test_a_value_of_another_type_anywhere_in_an_answer_is_no_traceback() -> None:
    """Each of them is a result or a sentence; the fields that decide about a job are not believed blindly."""
    assert _run(GOOD) == ["succeed", "succeed"]
    places = [path for path in _places(GOOD) if path and path != ("stored",)]
    refused = 0
    for path in places:
        for junk in JUNK:
            answers = copy.deepcopy(GOOD)
            holder: Any = answers
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = junk
            try:
                _run(answers)
            except HkrunnerError as error:
                refused += 1
                assert str(error).isprintable(), path
    assert 10 < refused < len(places) * len(JUNK) / 2


def test_the_tasks_of_a_completed_job_are_asked_for_until_the_graph_is_written() -> None:
    """The driver writes the status first: right after it, the graph still had tasks that were "creating"."""
    early = copy.deepcopy(GOOD)
    written = early["graph/parsed"]["nodes"][0]["batch"]
    for task in written:
        task.pop("endTime", None)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        for task in written:
            task["endTime"] = 2

    api: Any = Answers(early)
    found = cluster_tasks(api, "job1", JobEnd("stopped", 1.0, None), pause=pause)
    assert [one.end_ms for one in found] == [None, None] and pauses == []
    found = cluster_tasks(api, "job1", JobEnd("completed", 1.0, None), pause=pause)
    assert [one.end_ms for one in found] == [2, 2] and pauses == [1.0]


def test_a_job_that_has_ended_with_an_active_status_ends() -> None:
    """HKube 2.11 kept "98.5% completed" for a job that had results: it had written that after "completed"."""
    answers = copy.deepcopy(GOOD)
    answers["exec/status"] = {"status": "active", "data": {"progress": 98.5, "details": "98.5% completed"}}
    answers["exec/results"] |= {"status": "completed", "timeTook": 44.1}
    job = job_with(answers)
    job.submit(json_body(b"{}"))
    assert job.wait(lambda progress: None) == JobEnd("completed", 44.1, None)
    answers["exec/results"] |= {"status": "failed", "error": "no column"}
    assert job.wait(lambda progress: None) == JobEnd("failed", 44.1, "no column")


def test_a_job_whose_status_does_not_change_is_waited_for() -> None:
    progress: list[object] = []
    with HkubeApi(lambda row: row, per_second=1_000_000, active_polls=40).running() as fake:
        clock = Clock()

        def pause(seconds: float) -> None:
            clock.now += seconds

        api = ClusterApi(Cluster("lab", fake.url), sleep=lambda seconds: None)
        job = ClusterJob(api, "sq-1", {"sq": [0]}, pause=pause, clock=clock)
        job.submit(json_body(json.dumps(PIPELINE).encode()))
        assert job.wait(progress.append).status == "completed"
        asked = sum("exec/results" in one for one in fake.requests)
        assert len(progress) == 40 and asked == 3, "every 20 s of the 80, and not more often"


def test_a_job_that_somebody_has_paused_is_shown_as_paused() -> None:
    status = {"status": "active", "data": {"progress": 34, "details": "34% completed, 68 succeed, 9 active"}}
    assert progress_of(status) == (34.0, "68 succeed, 9 active")
    assert progress_of({**status, "status": "paused"}) == (34.0, "paused")


def test_a_job_that_waits_from_its_first_second_on_is_reported_once_in_a_log() -> None:
    lines: list[str] = []
    clock = Clock()
    log = ProgressLog(lines.append, clock)
    log.begin()
    run: Any = SimpleNamespace(
        _output=SimpleNamespace(events=SimpleNamespace(emit=lambda *_: None)),
        _status_line=None,
        _progress_log=log,
        _last_progress=None,
        _job=SimpleNamespace(shown="job1"),
    )
    for clock.now in (100.0, 105.0, 110.0, 120.0, 130.0):
        ClusterRun._progressed(run, JobProgress(0.0, "3 creating"))
    assert lines == ["  job1: 0 % · 3 creating"]


@pytest.mark.parametrize(("state", "is_stopped"), [("resumed", True), ("completed", False)])
def test_a_job_that_hkube_stops_only_if_its_state_is_named_is_stopped(state: str, is_stopped: bool) -> None:
    asked: list[dict[str, str]] = []

    class Resumed(Answers):
        def post(self, path: str, *value: Any, **_: object) -> Any:
            asked.extend(value)
            if "statusToStop" not in asked[-1]:
                raise RequestRefused("no", 404, "No jobs found matching criteria (statuses: active, …)")

    api: Any = Resumed({"exec/status": {"status": state}})
    assert ClusterJob(api, "sq-1", {"sq": [0]}, "job1").stop() is is_stopped
    assert asked == [{"jobId": "job1"}, {"jobId": "job1", "statusToStop": "resumed"}][: 1 + is_stopped]


def test_a_job_outlives_an_api_server_whose_database_is_away() -> None:
    said: list[str] = []
    with HkubeApi(lambda row: row, per_second=1_000_000, active_polls=2).running() as fake:
        api = ClusterApi(Cluster("lab", fake.url), on_trouble=said.append, sleep=lambda seconds: None)
        job = ClusterJob(api, "sq-1", {"sq": [0]}, pause=lambda seconds: None)
        job.submit(json_body(json.dumps(PIPELINE).encode()))
        text = b'{"error":{"code":500,"message":"connection 3 to 10.0.0.2:27017 closed"}}'
        fake.faults = [Fault("GET .*/exec/status", 500, text) for _ in range(4)]
        fake.faults += [Fault("GET .*/exec/results", 500, text)]
        end = job.wait(lambda progress: None)
        assert [one.output for one in job.results(end, with_times=False)] == [b"[3]"]
    assert "connection 3 to 10.0.0.2:27017 closed (HTTP 500); retrying" in said[0]
    assert len(said) == 4 and said[1::2] == ["● lab answers again"] * 2


@pytest.mark.parametrize("stored", [b"\xff", b"[" * 5000, bytes((1, 8, 2, 3, 0, 0)) + b"HK\x81\xc4\x01a\x01"])
def test_a_stored_value_that_cannot_be_read_is_the_failure_of_its_task_alone(stored: bytes) -> None:
    job = job_with({**GOOD, "stored": stored})
    job.id = "job1"
    first, second = job.results(JobEnd("completed", 1.0, None), with_times=False)
    assert first.output == b'"AQ=="'
    assert second.status in ("succeed", "failed")
    if second.failure is not None:
        assert second.failure.code == "STORAGE_READ_FAILED"


def test_a_stored_number_that_json_has_not_is_null_as_in_hkubes_own_json() -> None:
    assert json_of_stored(b"\x92\xcb\x7f\xf8\0\0\0\0\0\0\x01", "msgpack") == b"[null, 1]"


def test_a_result_nested_deeper_than_can_be_printed_is_the_failure_of_its_task() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = {"a": deep}
    answers = copy.deepcopy(GOOD)
    answers["exec/results"]["data"][0]["result"] = deep
    statuses = _run(answers)
    assert statuses[1] == "succeed"


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 200, "body": b"<html>portal</html>"},
        {"status": 200, "body": b'{"jobId":'},
        {"status": 200, "body": b"{}"},
        {"status": 500, "body": b'{"error":{"code":500,"message":"redis is away"}}'},
    ],
    ids=["HTML", "half JSON", "no id", "an error after it was stored"],
)
def test_a_job_whose_answer_is_no_answer_is_found_and_not_lost(fault: dict[str, Any]) -> None:
    with HkubeApi(lambda row: row, per_second=1_000_000).running() as fake:
        clock = Clock()

        def sleep(seconds: float) -> None:
            clock.now += seconds

        api = ClusterApi(Cluster("lab", fake.url), sleep=sleep, clock=clock)
        pipeline = {"name": "p-1", "nodes": [{"nodeName": "sq", "algorithmName": "sq", "input": []}]}
        body = json_body(json.dumps(pipeline).encode())
        job = ClusterJob(api, "p-1", {"sq": [0]}, pause=sleep, clock=clock)
        job.connect()
        fake.faults = [Fault("POST .*exec/raw", is_done=True, **fault)]
        job.submit(body)
        assert job.id == "job000000001" and len(fake.jobs) == 1
        if fault["status"] == 500:
            fake.faults = [Fault("POST .*exec/raw", **fault)]
            other = ClusterJob(api, "p-2", {"sq": [0]}, pause=sleep, clock=clock)
            with pytest.raises(ClusterError, match="redis is away"):
                other.submit(body)
            assert not other.may_be_submitted


def test_the_answers_of_the_store_are_not_believed_blindly() -> None:
    for junk in JUNK:
        entry = {"version": junk, "semver": junk, "created": junk, "algorithm": junk}
        answers = {
            "versions/algorithms": [entry, {**entry, "algorithm": {"algorithmImage": junk}}, junk],
            "builds/status": {
                "buildId": junk,
                "status": junk,
                "progress": junk,
                "result": junk,
                "error": junk,
            },
            "store/algorithms": {"version": junk},
        }
        store = AlgorithmStore(Answers(answers))  # type: ignore[arg-type]
        assert len(store.versions("a")) >= 2
        assert not store.build("b").has_ended
    with pytest.raises(HkrunnerError, match="has no algorithm"):
        AlgorithmStore(Answers({})).get("../jobs")  # type: ignore[arg-type]


@pytest.mark.parametrize("command", ["ls", "show a", "versions a"])
def test_whatever_a_cluster_has_stored_of_an_algorithm_can_be_shown(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for junk in JUNK:
        stored = dict.fromkeys(("name", "type", "cpu", "mem", "algorithmImage", "options", "errors"), junk)
        version = {"version": junk, "semver": junk, "created": junk, "algorithm": stored}
        answers = {"store": [stored], "store/algorithms": stored, "versions/algorithms": [version]}
        store = AlgorithmStore(Answers(answers))  # type: ignore[arg-type]
        monkeypatch.setattr(algorithm, "store_of", lambda *_, store=store: (store, "lab"))
        algorithm.command.main(command.split(), standalone_mode=False)
        assert "\x1b" not in capsys.readouterr().out
