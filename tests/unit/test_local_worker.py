"""The local worker: how it reports a client's mistakes, and what it limits."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from hkrunner.runner.console.task_report import ProgressLog, progress_line
from hkrunner.runner.errors import HkrunnerError
from hkrunner.runner.io.loop import Loop
from hkrunner.runner.protocol.result import Result
from hkrunner.runner.settings.storage_settings import StorageSettings
from hkrunner.runner.storage.errors import StorageError
from hkrunner.runner.worker_stub.catalog import DEPTH_MAX, SLOTS, Catalog
from hkrunner.runner.worker_stub.server import LocalWorker
from hkrunner.runner.worker_stub.session import Session, SessionListener
from hkrunner.runner.worker_stub.spans import UNFINISHED, Spans
from hkrunner.runner.worker_stub.stored_values import StoredValues
from hkrunner.runner.worker_stub.task import Answer, LocalTask
from hkrunner.sandbox.codec import codec

ONE = {"nodeName": "a", "algorithmName": "x"}
TASK = LocalTask("t1", "job1", "green", "green-alg", "simple", b"[1]")


class Talk:
    """A session with a client that is this test, and a clock that it turns."""

    encoding = "json"

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[Any] = []
        self.answers: list[Answer] = []
        self.problems: list[str] = []
        self.loop = Loop(clock=lambda: self.now)
        listener = SessionListener(self.answers.append, self.problems.append)
        self.catalog = Catalog()
        self.session = Session(self.loop, self, self.catalog, listener)

    def send(self, data: bytes) -> None:
        self.said.append(json.loads(data))

    def hear(self, command: str, **more: Any) -> None:
        self.session.hear(json.dumps({"command": command, **more}).encode())

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.loop.turn(0)

    def working(self) -> Talk:
        self.session.begin(TASK)
        self.hear("initialized")
        self.said.clear()
        return self

    def last(self) -> Any:
        return self.said[-1]


class BsonTalk(Talk):
    encoding = "bson"

    def send(self, data: bytes) -> None:
        self.said.append(codec.decode("bson", data))

    def hear(self, command: str, **more: Any) -> None:
        self.session.hear(codec.encode("bson", {"command": command, **more}))


@pytest.fixture
def talk() -> Any:
    one = Talk()
    yield one
    one.loop.close()


@pytest.fixture
def bson_talk() -> Any:
    one = BsonTalk()
    yield one
    one.loop.close()


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ({"progress": 100 / 3, "details": "epoch 1/3"}, "  t1: 33 % · epoch 1/3"),
        ({"progress": 10**400, "details": None}, f"  t1: {10**400} %"),
        ({"progress": float("nan")}, "  t1: nan %"),
        ({"progress": "half"}, "  t1: half %"),
        ([], "  t1: None %"),
    ],
)
def test_progress_is_shown_in_whole_percent_and_odd_values_as_they_are(data: Any, shown: str) -> None:
    assert progress_line("t1", data) == shown


def test_progress_in_a_log_is_a_line_every_ten_seconds() -> None:
    now, lines = 0.0, list[str]()
    log = ProgressLog(lines.append, lambda: now)
    log.begin()
    for second in range(26):
        now = float(second)
        log.progress("t1", {"progress": second})
    assert lines == ["  t1: 10 %", "  t1: 20 %"]


@pytest.mark.parametrize(
    ("value", "wrong"),
    [(b"[" * 100_000, "is not json"), (b"1" * 5000 + b"}", "has an integer of more than 4,300 digits")],
)
def test_a_message_that_cannot_be_read_ends_the_task_with_a_sentence(
    talk: Talk, value: bytes, wrong: str
) -> None:
    talk.working().session.hear(b'{"command":"done","data":' + value)
    assert len(talk.answers) == 1
    assert talk.answers[0].error.startswith(f"the client sent a message that {wrong}")


@pytest.mark.parametrize("flow_input", [[1, 2], "x", 3])
def test_a_flow_input_that_is_no_object_is_refused(talk: Talk, flow_input: Any) -> None:
    talk.catalog.pipelines = {"s": {"name": "s", "flowInput": {}, "nodes": [ONE]}}
    asked = {"subPipelineId": "1", "subPipeline": {"name": "s", "flowInput": flow_input}}
    talk.working().hear("startStoredSubPipeline", data=asked)
    assert talk.last()["data"]["error"] == "data.flowInput should be object,null"


class Endless:
    """Algorithms whose tasks never end by themselves."""

    def __init__(self) -> None:
        self.started: list[LocalTask] = []
        self.ends: list[Any] = []
        self.stopped = 0

    def __contains__(self, name: object) -> bool:
        return True

    def start(self, task: LocalTask, on_end: Any, *, ends_on_error: bool = False) -> Any:
        self.started.append(task)
        self.ends.append(on_end)
        return self

    def stop(self) -> None:
        self.stopped += 1


def test_a_pipeline_that_outlives_its_ttl_is_stopped(talk: Talk) -> None:
    talk.catalog.algorithms = endless = Endless()
    pipeline = {"name": "p", "nodes": [ONE], "options": {"ttl": 3600, "activeTtl": 5}}
    talk.working().hear("startRawSubPipeline", data={"subPipelineId": "1", "subPipeline": pipeline})
    talk.wait(4.9)
    assert talk.last()["command"] == "subPipelineStarted"
    talk.wait(0.2)
    assert talk.last() == {
        "command": "subPipelineStopped",
        "data": {"subPipelineId": "1", "reason": "pipeline expired: its ttl is 5 s"},
    }
    assert endless.stopped == 1


def test_a_task_that_outlives_the_ttl_of_its_node_is_stopped_and_has_failed(talk: Talk) -> None:
    talk.session.begin(TASK._replace(more={"ttl": 5}))
    talk.wait(60)  # it counts from start, not from initialize
    talk.hear("initialized")
    talk.wait(4.9)
    assert talk.last()["command"] == "start"
    talk.wait(0.2)
    assert talk.last() == {"command": "stop", "data": {"forceStop": True}}
    talk.hear("stopped")
    assert [(answer.command, answer.error) for answer in talk.answers] == [
        ("errorMessage", "Algorithm TTL expired")
    ]


def test_a_task_that_ends_before_its_ttl_is_left_alone(talk: Talk) -> None:
    talk.session.begin(TASK._replace(more={"ttl": 5}))
    talk.hear("initialized")
    talk.hear("done", data=1)
    said = len(talk.said)
    talk.wait(60)
    assert (len(talk.said), talk.answers[0].command) == (said, "done")


def test_the_ttl_of_a_node_travels_with_its_tasks(talk: Talk) -> None:
    talk.catalog.algorithms = endless = Endless()
    pipeline = {"name": "p", "nodes": [{**ONE, "ttl": 7}, {**ONE, "nodeName": "b", "ttl": 0}]}
    talk.working().hear("startRawSubPipeline", data={"subPipelineId": "1", "subPipeline": pipeline})
    assert [task.more for task in endless.started] == [{"ttl": 7}, {}]


def start_one(talk: Talk, exec_id: str) -> None:
    data = {"execId": exec_id, "algorithmName": "x", "input": []}
    talk.hear("startAlgorithmExecution", data=data)


def test_a_chain_of_tasks_that_start_each_other_is_bounded(talk: Talk) -> None:
    talk.catalog.algorithms = endless = Endless()
    talk.session.begin(TASK._replace(depth=DEPTH_MAX - 1))
    start_one(talk, "1")
    assert [task.depth for task in endless.started] == [DEPTH_MAX]
    talk.session.close()
    talk.session.begin(endless.started[0])
    talk.hear("initialized")
    start_one(talk, "2")
    assert talk.last()["command"] == "algorithmExecutionError"
    assert f"a chain of {DEPTH_MAX} tasks" in talk.last()["data"]["error"]
    pipeline = {"subPipelineId": "1", "subPipeline": {"name": "p", "nodes": [ONE]}}
    talk.hear("startRawSubPipeline", data=pipeline)
    assert talk.last()["command"] == "subPipelineError"
    assert len(endless.started) == 1


def test_tasks_of_one_depth_share_its_slots_and_no_other_depth_waits_for_them(talk: Talk) -> None:
    talk.catalog.algorithms = endless = Endless()
    talk.working()
    for number in range(SLOTS + 1):
        start_one(talk, str(number))
    assert len(endless.started) == SLOTS
    deeper = Session(
        talk.loop, talk, talk.catalog, SessionListener(talk.answers.append, talk.problems.append)
    )
    deeper.begin(endless.started[0])
    data = {"execId": "1", "algorithmName": "x", "input": []}
    deeper.hear(json.dumps({"command": "startAlgorithmExecution", "data": data}).encode())
    assert [task.depth for task in endless.started[SLOTS:]] == [2]
    endless.ends[0](Answer(endless.started[0], "done", {"command": "done"}))
    assert [task.depth for task in endless.started[SLOTS:]] == [2, 1]
    deeper.close()


def test_a_task_that_ends_gives_back_the_slots_of_what_it_started(talk: Talk) -> None:
    talk.catalog.algorithms = endless = Endless()
    talk.working()
    for number in range(SLOTS + 1):
        start_one(talk, str(number))
    talk.hear("done", data=1)
    assert endless.stopped == SLOTS
    for task, end in zip(endless.started, endless.ends, strict=True):
        end(Answer(task, "stopped", {"command": "stopped"}))
    assert len(endless.started) == SLOTS  # the one that waited was never started
    talk.working()
    start_one(talk, "1")
    assert len(endless.started) == SLOTS + 1


def test_alive_is_missed_after_ten_seconds_and_not_before(talk: Talk) -> None:
    talk.working().hear("alive")
    talk.wait(9)
    talk.hear("alive")
    talk.wait(9)
    assert not talk.problems
    talk.wait(2)
    assert "would lose the answer of task t1" in talk.problems[0]


def test_never_saying_alive_is_legal(talk: Talk) -> None:
    talk.working().wait(3600)
    assert not talk.problems


def test_alive_after_the_answer_is_reported_unless_a_task_follows(talk: Talk) -> None:
    talk.working().hear("done", data=1)
    talk.hear("alive")
    talk.session.begin(TASK)
    talk.wait(11)
    assert not talk.problems
    talk.hear("done", data=1)
    talk.hear("alive")
    talk.wait(11)
    assert "would exit" in talk.problems[0]


def test_a_stop_that_is_not_answered_in_ten_seconds_is_reported(talk: Talk) -> None:
    talk.working().session.stop()
    talk.hear("done", data="dropped")
    talk.wait(11)
    assert "no `stopped` came within 10 s" in talk.problems[0]
    assert not talk.answers


def test_stopping_extends_the_deadline_of_a_stop(talk: Talk) -> None:
    talk.working().session.stop()
    for _ in range(5):
        talk.wait(9)
        talk.hear("stopping")
    talk.hear("stopped")
    talk.wait(60)
    assert not talk.problems
    assert [answer.command for answer in talk.answers] == ["stopped"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"command": "stopping"}, "`stopping` came without a stop"),
        ({"command": "stopped"}, "`stopped` came without a stop"),
        ({"command": "initialized"}, "`initialized` came without an initialize"),
        ({"command": "errorMessage"}, "`unknown error`"),
        ({"command": "dataSourceRequest"}, "HKube's worker would crash"),
        ({"command": "error"}, "HKube's worker would crash"),
        ({"command": "finishSpan"}, "no span was open"),
        ({"nothing": 1}, "without a command"),
    ],
)
def test_a_mistake_of_the_client_is_reported(talk: Talk, message: Any, said: str) -> None:
    talk.working().session.hear(json.dumps(message).encode())
    assert said in talk.problems[0]


def test_a_done_with_an_error_is_a_failure(talk: Talk) -> None:
    talk.working().hear("done", error={"message": "boom"})
    assert (talk.answers[0].command, talk.answers[0].error) == ("errorMessage", "boom")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"execId": 1, "algorithmName": "a"}, {"execId": 1, "error": "data.execId should be string"}),
        (
            {"execId": "1", "algorithmName": "a", "input": {}},
            {"execId": "1", "error": "data.input should be array"},
        ),
        ({"algorithmName": "a"}, {"error": "data should have required property 'execId'"}),
        (
            {"execId": "1", "algorithmName": "a"},
            {"execId": "1", "error": "Cannot read properties of undefined (reading 'map')"},
        ),
        (
            {"execId": "1", "algorithmName": "a", "input": []},
            {"execId": "1", "error": "Algorithm named 'a' does not exist"},
        ),
    ],
)
def test_an_execution_is_refused_in_the_workers_words(talk: Talk, data: Any, told: Any) -> None:
    talk.working().hear("startAlgorithmExecution", data=data)
    assert talk.last() == {"command": "algorithmExecutionError", "data": told}


def test_an_input_that_has_no_form_in_json_is_refused(bson_talk: Talk) -> None:
    bson_talk.catalog.algorithms = endless = Endless()
    call = {"execId": "1", "algorithmName": "x", "input": [{"a": ObjectId()}]}
    bson_talk.working().hear("startAlgorithmExecution", data=call)
    assert bson_talk.last()["command"] == "algorithmExecutionError"
    assert bson_talk.last()["data"]["error"].startswith("input[0]['a']: bson.")
    node = {**ONE, "input": ["@flowInput.x"]}
    pipeline = {"name": "p", "nodes": [node], "flowInput": {"x": ObjectId()}}
    bson_talk.hear("startRawSubPipeline", data={"subPipelineId": "1", "subPipeline": pipeline})
    assert bson_talk.last()["command"] == "subPipelineError"
    assert bson_talk.last()["data"]["error"].startswith("input[0]: bson.")
    assert endless.started == []


def test_a_result_that_has_no_form_in_json_is_said() -> None:
    result = Result("t1", "j", "n", "p", "succeed", 0.0, 0.0, 0.0)
    result.take_output({1: (float("nan"), b"x")})
    assert (result.output, result.problems) == (b'{"1":[null,"eA=="]}', [])
    result = Result("t1", "j", "n", "p", "succeed", 0.0, 0.0, 0.0)
    result.take_output([ObjectId()])
    assert result.output is None
    (said,) = result.problems
    assert said.startswith("the result has no form in JSON, so it is not shown: result[0]: bson")


def test_arguments_in_the_storage_are_lists_of_links(tmp_path: Path) -> None:
    values = StoredValues(StorageSettings(folder=str(tmp_path)))
    links: list[Any] = [None, "text", [{}], {"storageInfo": 5}]
    for link in links:
        with pytest.raises(StorageError, match="a link "):
            values.call("startAlgorithmExecution", {"storageInput": ["$$a"], "storage": {"a": link}})
    assert "input" not in values.call("startAlgorithmExecution", {"storageInput": 5, "storage": {}})


def test_executions_have_no_place_between_tasks(talk: Talk) -> None:
    talk.hear("startAlgorithmExecution", data={"execId": "1", "algorithmName": "a", "input": []})
    assert talk.last()["data"] == {"execId": "1", "error": "execution cannot start in this state"}


def test_an_unknown_execution_cannot_be_stopped(talk: Talk) -> None:
    talk.working().hear("stopAlgorithmExecution", data={"execId": "zz"})
    assert talk.last()["data"] == {"execId": "zz", "error": "unable to find execId zz"}
    talk.hear("stopSubPipeline", data={"subPipelineId": "99"})
    assert talk.last()["data"]["error"] == "cannot stop subPipeline - not found: 99"


def test_a_sub_pipeline_that_cannot_be_read_is_refused_without_an_id(talk: Talk) -> None:
    talk.session.begin(TASK)
    pipeline = {"subPipelineId": "1", "subPipeline": {"name": "p"}}
    talk.hear("startRawSubPipeline", data={**pipeline, "subPipelineId": 1})
    assert talk.last()["data"] == {"error": "data.subPipelineId should be string"}
    talk.hear("startRawSubPipeline", data=pipeline)
    assert talk.last()["data"] == {"error": "No errors"}
    talk.hear("initialized")
    talk.hear("startStoredSubPipeline", data=pipeline)
    assert [one["command"] for one in talk.said[-2:]] == ["subPipelineStarted", "subPipelineError"]
    assert talk.last()["data"] == {"subPipelineId": "1", "error": "pipeline p Not Found"}


def test_spans_nest_and_what_is_open_ends_with_the_task() -> None:
    times = iter([1.0, 2.0, 3.0, 4.0])
    spans = Spans(now=lambda: next(times))
    spans.start("outer", {"a": 1})
    spans.start("inner", {})
    assert spans.finish({"b": 2}, "boom")
    (outer,) = spans.close()
    (inner,) = outer["children"]
    assert (inner["durationMs"], inner["tags"], inner["error"]) == (1000, {"b": 2}, "boom")
    assert (outer["durationMs"], outer["error"]) == (3000, UNFINISHED)
    assert not spans.finish({}, None)


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EPERM, errno.ENOSYS])
def test_a_service_that_may_not_use_the_network_is_reported_in_one_sentence(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **keywords: object) -> socket.socket:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "create_server", refuse)
    loop = Loop()
    worker = LocalWorker(loop, on_answer=lambda answer: None, on_problem=lambda text: None)
    with pytest.raises(HkrunnerError, match=os.strerror(number)):
        worker.listen()
    loop.close()
