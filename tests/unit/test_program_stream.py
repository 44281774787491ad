"""A program as a node of a stream: what it hears of others, what it may report, and how its task ends."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import bson
import pytest
from hkrunner.runner.io.loop import Loop
from hkrunner.runner.link.message_memory import MessageMemory, WorkerMessage
from hkrunner.runner.program import stream_task
from hkrunner.runner.program.conversation import Conversation
from hkrunner.runner.program.program_stream import ProgramStream
from hkrunner.runner.program.pulse import Pulse
from hkrunner.runner.protocol import encoding
from hkrunner.runner.protocol.task_state import State
from hkrunner.sandbox.shared.limits import Limits
from hkrunner.sandbox.shared.message_format import Memfd
from hkrunner.sandbox.shared.messages import Done, Failed, Initialized, Problem, Progress, TaskRead
from hkrunner.sandbox.shared.outcome import Cause
from hkrunner.sandbox.shared.stream_messages import AskStream, StreamStage, StreamStatistics
from support.clock import Clock
from support.fake_serving import FakeServing, Serve, is_open


@dataclass
class Talk:
    """A conversation about a streaming task that is started, and what came of it."""

    children: tuple[str, ...] = ("B",)
    heard: list[Any] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.conversation = Conversation(
            "json",
            lambda task, message: self.heard.append(message),
            on_unsure=lambda: self.asked.append("exit"),
            on_returned=lambda: self.asked.append("returned"),
            on_hand_out=lambda: self.asked.append("hand out"),
            reported=set(),
        )
        self.conversation.begin(1)
        self.conversation.initialize_sent(1)
        self.conversation.stream = ProgramStream(self.children)
        self.conversation.start()

    def says(self, command: str, data: Any = None) -> None:
        self.conversation.take(WorkerMessage(json.dumps({"command": command, "data": data}).encode()))

    def reports(self, waiting: int, **more: Any) -> None:
        item = {"nodeName": "B", "sent": 9, "responses": 8, "queueSize": waiting, "dropped": 0, **more}
        self.says("streamingStatistics", [item])


def begin_stream(one: FakeServing) -> None:
    """Bring the program's first task, which is node B between A and C, to its start."""
    one.child.reads_at_once = True
    one.initialize()
    one.child.says(TaskRead({}), one.number)
    one.child.says(AskStream("j", "B", ["A"], ["C"], False), one.number)
    one.child_initializes()
    one.start()


@pytest.mark.parametrize("kind", ["json", "bson", "msgpack"])
def test_a_task_of_a_stream_is_seen_in_its_message(kind: str) -> None:
    data = {"kind": "stream", "jobId": "j", "nodeName": "A", "parents": [], "childs": ["B"], "input": [[1]]}
    found = stream_task.read(kind, encoding.encode(kind, {"command": "initialize", "data": data}))
    assert found == AskStream(job="j", node="A", parents=[], children=["B"], in_turn=False)
    for other in ({**data, "kind": "batch"}, {}, [], None, "text"):
        assert stream_task.read(kind, encoding.encode(kind, {"command": "initialize", "data": other})) is None
    assert stream_task.read(kind, b"garbage") is None


def test_the_result_of_a_node_is_its_answer_once_the_next_nodes_have_taken_all_messages() -> None:
    talk = Talk()
    talk.says("done", 7)
    talk.reports(waiting=3)
    talk.conversation.hand_out(without_reports=True)  # it does report
    assert talk.asked == ["returned"]
    talk.reports(waiting=0)
    assert talk.asked == ["returned", "hand out"]
    assert {type(one) for one in talk.heard} == {StreamStatistics}
    talk.says("stopped")
    assert talk.heard[-1] == Done(b'{"command":"done","data":7}')
    assert talk.asked[-1] == "exit"


def test_a_program_that_reports_nothing_is_asked_to_hand_out_what_it_has() -> None:
    talk = Talk()
    talk.says("done", 7)
    talk.conversation.hand_out(without_reports=True)
    talk.conversation.hand_out(without_reports=True)
    assert talk.asked == ["returned", "hand out"]


def test_the_stopped_that_a_program_owes_its_last_task_is_not_the_answer_of_the_next_one() -> None:
    for is_amid in (True, False):
        talk = Talk(children=())
        talk.conversation.stop()
        talk.says("done", 7)
        talk.conversation.begin(2, is_amid=is_amid)
        if is_amid:
            talk.conversation.initialize_sent(2)
        talk.says("stopped")
        talk.conversation.initialize_sent(2)
        talk.says("initialized")
        talk.conversation.start()
        talk.says("stopped")
        assert [type(one) for one in talk.heard] == [Done, Initialized, Failed], is_amid
        assert "unasked" in talk.heard[-1].message


def test_a_program_that_never_says_stopped_has_its_result_all_the_same() -> None:
    talk = Talk()
    talk.says("done", 7)
    talk.reports(waiting=0)
    talk.conversation.end_handing_out(2)  # of another task
    assert talk.asked[-1] == "hand out"
    for _ in range(2):
        talk.conversation.end_handing_out(1)
    assert [one for one in talk.heard if isinstance(one, Done)] == [Done(b'{"command":"done","data":7}')]
    assert talk.asked[-2:] == ["hand out", "exit"]


def test_a_node_without_next_nodes_answers_at_once() -> None:
    talk = Talk(children=())
    talk.says("done", 7)
    assert talk.heard == [Done(b'{"command":"done","data":7}')] and talk.asked == []


@pytest.mark.parametrize("result", ["before", "none"])
def test_a_stop_in_order_ends_with_stopped_and_one_by_force_is_no_result(result: str) -> None:
    for in_order in (True, False):
        talk = Talk()
        talk.conversation.stop(in_order=in_order)
        if result == "before":
            talk.says("done", 7)
        assert talk.heard == []
        talk.says("stopped")
        (answer,) = talk.heard
        if in_order:
            assert isinstance(answer, Done)
            assert json.loads(bytes(answer.wire)).get("data") == (7 if result == "before" else None)
        else:
            assert isinstance(answer, Failed)


def test_a_program_that_is_stopped_in_its_init_takes_the_next_task() -> None:
    talk = Talk()
    talk.conversation.begin(2)
    talk.conversation.initialize_sent(2)
    talk.conversation.stop()
    for command in ("initialized", "done", "stopped"):
        talk.says(command)
    kinds = [type(one) for one in talk.heard]
    assert kinds == [Initialized, Problem]  # `done` is held back
    assert talk.asked == []


def test_a_second_initialized_is_none_after_a_stop() -> None:
    talk = Talk()
    talk.conversation.stop()
    talk.says("initialized")
    (said,) = talk.heard
    assert isinstance(said, Problem) and "a second `initialized`" in said.text


def test_a_large_result_that_is_kept_is_forgotten_with_its_task() -> None:
    talk = Talk()
    wire = json.dumps({"command": "done", "data": "x" * 300_000}, separators=(",", ":")).encode()
    memory = MessageMemory(len(wire))
    memory.size, memory.map[:] = len(wire), wire
    talk.conversation.take(WorkerMessage(b"", memory))
    assert talk.conversation.stream is not None
    kept = talk.conversation.stream._result
    assert kept is not None and isinstance(kept.wire, Memfd) and is_open(kept.wire.fd)
    talk.conversation.begin(2)
    assert not is_open(kept.wire.fd)


@pytest.mark.parametrize(
    "data", [None, 7, [7], [{}], [{"nodeName": "Z"}], [{"nodeName": "B"}, {"nodeName": ["B"]}]]
)
def test_statistics_that_would_end_hkubes_worker_are_held_back(data: Any) -> None:
    talk = Talk()
    talk.says("streamingStatistics", data)
    (said,) = talk.heard
    assert isinstance(said, Problem) and "`streamingStatistics`" in said.text


def test_numbers_that_are_none_count_as_nothing() -> None:
    talk = Talk()
    values = [1.5, "x", None, True, 10**400]
    talk.reports(waiting=-3, sent="9", responses=10**400, durations=values, dropped=True, more=1)
    (said,) = talk.heard
    item = {"nodeName": "B", "sent": 0, "responses": 0, "queueSize": 0, "dropped": 0, "durations": [1.5]}
    assert said == StreamStatistics([item])


@pytest.mark.parametrize("value", [pytest.param(10**400, id="huge"), "50", True, None])
def test_progress_that_is_no_number_is_held_back(value: Any) -> None:
    talk = Talk()
    talk.says("progress", {"progress": value})
    (said,) = talk.heard
    assert isinstance(said, Problem) and "`progress` without a number" in said.text


def test_details_that_json_does_not_have_or_that_are_too_deep_end_nothing(serve: Serve) -> None:
    one = serve(argv=("program",))
    begin_stream(one)
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    odd: list[tuple[Any, Any]] = [
        ([b"x", float("nan"), {1: "é"}], ["eA==", None, {"1": "é"}]),
        ("text", "text"),
        (bson.ObjectId(), None),
        (deep, None),
    ]
    for details, told in odd:
        one.child.says(Progress(1.0, details), one.number)
        assert one.link.posted[-1]["data"] == {"progress": 1.0, "details": told}


def test_a_message_that_is_too_deep_to_be_decoded_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk()

    def too_deep(kind: str, data: bytes) -> Any:  # though it could be checked
        raise ValueError("nested too deep")

    monkeypatch.setattr(encoding, "decode", too_deep)
    for command in ("progress", "streamingStatistics", "errorMessage"):
        talk.says(command, {})
    assert [type(one) for one in talk.heard] == [Problem, Problem, Failed]


def test_discovery_updates_and_statistics_are_passed_on(serve: Serve) -> None:
    one = serve(argv=("program",))
    one.child.reads_at_once = True
    one.initialize()
    one.worker("serviceDiscoveryUpdate", [{"nodeName": "A"}])  # before the program has its task
    one.child.says(TaskRead({}), one.number)
    assert one.child.replies == []
    one.child.says(AskStream("j", "B", ["A"], ["C"], False), one.number)
    one.worker("serviceDiscoveryUpdate", [{"nodeName": "A2"}])
    told = [json.loads(bytes(wire)) for _, wire in one.child.replies]
    assert [message["data"] for message in told] == [[{"nodeName": "A"}], [{"nodeName": "A2"}]]
    assert {message["command"] for message in told} == {"serviceDiscoveryUpdate"}
    many = [{"nodeName": "A" * 1000}] * 400
    one.worker("serviceDiscoveryUpdate", many)
    assert json.loads(bytes(one.child.replies[-1][1]))["data"] == many
    one.child_initializes()
    one.start()
    assert one.state is State.RUNNING
    items = [{"nodeName": "C", "queueSize": 0}]
    one.child.says(StreamStatistics(items), one.number)
    assert one.link.posted[-1] == {"command": "streamingStatistics", "data": items}
    one.child_answers()
    assert one.commands[-1] == "done"
    assert one.children[0].exits  # it was told to end already, and gets no other task
    one.initialize("t2")
    assert one.child is one.children[1]


def test_a_program_that_takes_too_long_for_a_message_is_killed(serve: Serve) -> None:
    one = serve(argv=("program",), limits=Limits(task_timeout_s=3))
    begin_stream(one)
    one.child.says(StreamStage("overdue"), one.number)
    assert one.child.kill_cause is Cause.TASK_TIMEOUT


def test_what_the_wrapper_says_of_a_message_that_takes_too_long_counts_where_there_is_a_limit(
    serve: Serve,
) -> None:
    talk = Talk()
    talk.says("messageOverdue")
    assert talk.heard == [StreamStage("overdue")]
    talk.conversation.stream = None
    talk.says("messageOverdue")
    assert isinstance(talk.heard[-1], Problem)
    one = serve(argv=("program",))
    begin_stream(one)
    one.child.says(StreamStage("overdue"), one.number)
    assert one.child.kill_cause is None


def test_only_a_program_that_has_answered_a_ping_is_silent_when_it_answers_none() -> None:
    clock = Clock()
    loop = Loop(clock=clock)
    pulse_of = partial(Pulse, loop, 3.0, lambda: said.append("ping"), lambda: said.append("silent"))
    said: list[str] = []

    def after(seconds: float) -> list[str]:
        said.clear()
        clock.now += seconds
        loop.turn(0)
        return list(said)

    pulse = pulse_of()
    pulse.begin()
    assert after(100) == []
    pulse.answered()
    assert (after(0.9), after(0.2), after(5.9)) == ([], ["ping"], [])
    pulse.answered()
    assert (after(1), after(6)) == (["ping"], ["silent"])
    pulse.begin()
    pulse.end()
    assert after(100) == []
    loop.close()


@pytest.mark.parametrize("fails", [True, False])
def test_what_a_program_had_for_the_next_nodes_when_it_failed_is_said_to_be_lost(
    serve: Serve, fails: bool
) -> None:
    one = serve(argv=("program",), stream_port=0)
    begin_stream(one)
    one.child.says(StreamStatistics([{"nodeName": "C", "queueSize": 40}]), one.number)
    if fails:
        one.child_fails()
    else:
        one.child_answers()
    said = [line for line in one.output.lines if "about 40 messages for the next nodes are lost" in line]
    assert len(said) == fails
