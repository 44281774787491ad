"""The order in which the nodes of a stream pipeline begin and end, with replicas that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hkrunner.runner.console.event_sink import EventSink
from hkrunner.runner.io.loop import Loop
from hkrunner.runner.local_stream import stream_run
from hkrunner.runner.local_stream.replica import ReplicaListener, ReplicaState
from hkrunner.runner.local_stream.stream_report import LINE_EVERY_S
from hkrunner.runner.local_stream.stream_run import ENDS_TOGETHER_S, StreamRun
from hkrunner.runner.protocol.messages import Failure
from hkrunner.runner.protocol.result import Result
from hkrunner.runner.settings.settings import CodeSource, Records, Serving, Settings
from hkrunner.runner.worker_stub.catalog import Catalog
from hkrunner.runner.worker_stub.stream_pipeline import read_stream, with_state_types
from hkrunner.sandbox.shared.outcome import Cause, Exit
from support.clock import Clock
from support.fake_serving import RecordingOutput

FAILED = Failure("ALGORITHM_ERROR", "ALGORITHM_ERROR: ValueError: no")


class PipelineOutput(RecordingOutput):
    """Records lines and results."""

    def __init__(self) -> None:
        super().__init__(EventSink())
        self.results: list[bytes] = []
        self.out, self.err = SimpleNamespace(broken=False), None

    line = RecordingOutput.say

    def show_status(self, line: str | None) -> None:
        pass

    def result(self, line: bytes) -> None:
        self.results.append(line)

    def when_taken(self, callback: Callable[[], None]) -> None:
        callback()


class MovedReplica:
    """A replica whose process the test plays; `asked` is what the run has asked of it."""

    def __init__(
        self,
        context: object,
        catalog: object,
        listener: ReplicaListener,
        *,
        node: str,
        name: str,
        **more: Any,
    ) -> None:
        self.listener: Any = listener
        self.node, self.name = node, name
        self.output = more["output"]
        self.port = more["port"]
        self.store = None
        self.is_program = False
        self.state = ReplicaState.LOADING
        self.failures = 0
        self.asked: list[str] = []

    def load(self) -> None:
        self.asked.append("load")

    def begin(self, task: Any) -> None:
        self.state = ReplicaState.WORKING
        self.asked.append("begin")

    def tell_of(self, others: list[MovedReplica], kind: str) -> None:
        self.asked.append(f"{kind} {' '.join(one.name for one in others)}")

    def stop(self, *, force: bool) -> None:
        self.asked.append("stop by force" if force else "stop")

    def shutdown(self) -> None:
        self.asked.append("shutdown")

    def close(self) -> None:
        if self.port is not None:
            self.port.close()

    def child_pid(self) -> int:
        return 0

    # ---- what the process does

    def loads(self) -> None:
        self.state = ReplicaState.LOADED
        self.listener.on_loaded(self)

    def ends(self, status: str = "succeed", **more: Any) -> None:
        self.state = ReplicaState.ENDED
        self.listener.on_ended(self, Result("t", "j", self.node, "p", status, 0.0, 0.0, 0.5, **more))

    def goes(self) -> None:
        self.state = ReplicaState.GONE
        self.listener.on_gone(self)


@dataclass
class Played:
    """A run, its replicas by name, and what it has printed."""

    run: StreamRun
    loop: Loop
    clock: Clock
    output: PipelineOutput
    over: list[int] = field(default_factory=list)

    def __getitem__(self, name: str) -> MovedReplica:
        return next(one for one in self.replicas if one.name == name)

    @property
    def replicas(self) -> list[MovedReplica]:
        return cast("list[MovedReplica]", self.run._all)

    def begin(self) -> None:
        self.run.begin()
        for one in self.replicas:
            one.loads()
        for one in self.replicas:
            one.asked.clear()

    def wait(self, seconds: float = 0.0) -> None:
        self.clock.now += seconds
        self.loop.turn(0)

    def asked(self) -> dict[str, list[str]]:
        """Return what was asked since the last call, of the replicas that were asked anything."""
        self.wait()
        found = {one.name: list(one.asked) for one in self.replicas if one.asked}
        for one in self.replicas:
            one.asked.clear()
        return found


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Played]]:
    monkeypatch.setattr(stream_run, "Replica", MovedReplica)
    begun: list[Played] = []

    def play(flow: str, **of_b: Any) -> Played:
        names = sorted(set(flow) & set("ABCD"))
        nodes = [{"nodeName": name, "algorithmName": name, "stateType": "stateful"} for name in names]
        nodes[1].update(of_b)
        raw = {"name": "p", "kind": "stream", "nodes": nodes, "streaming": {"flows": {"f": flow}}}
        pipeline = with_state_types(read_stream(raw, {}), {})
        clock, output = Clock(), PipelineOutput()
        loop = Loop(clock=clock)
        settings = Settings(CodeSource("/code"), Serving(""), Records(None))
        over: list[int] = []
        context_of = cast("Callable[[str], Any]", lambda name: None)
        run = StreamRun(
            loop, settings, output, pipeline, context_of, Catalog(), "job", lambda: over.append(run.status)
        )
        begun.append(Played(run, loop, clock, output, over))
        return begun[-1]

    yield play
    for one in begun:
        one.run.close()
        one.loop.close()


def test_nodes_begin_from_the_end_of_the_flows_and_end_from_their_beginning(
    play: Callable[..., Played],
) -> None:
    played = play("A >> B & C >> D")
    played.run.begin()
    for name in "ABC":
        played[name].loads()
    assert played.asked() == {name: ["load"] for name in "ABCD"}  # nothing begins before all are loaded
    played["D"].loads()
    assert played.asked() == {
        "D": ["begin", "Add B C"],
        "C": ["begin", "Add A"],
        "B": ["begin", "Add A"],
        "A": ["begin"],
    }
    played["A"].ends()
    assert played.asked() == {"A": ["shutdown"], "B": ["Del A", "stop"], "C": ["Del A", "stop"]}
    played["C"].ends()
    assert played.asked() == {"C": ["shutdown"], "D": ["Del C"]}  # B still sends to it
    played["B"].ends()
    assert played.asked() == {"B": ["shutdown"], "D": ["Del B", "stop"]}
    played["D"].ends(output=b"7")
    for name in "ABC":
        played[name].goes()
    assert not played.over
    played["D"].goes()
    assert played.over == [0]
    assert played.output.results == [b'{"nodeName":"D","result":7}']


def test_ctrl_c_stops_the_sources_then_everything_at_once_then_kills(play: Callable[..., Played]) -> None:
    played = play("A >> B >> C")
    played.begin()
    item = {"nodeName": "B", "sent": 30, "responses": 20, "dropped": 0, "queueSize": 990}
    played["A"].listener.on_statistics(played["A"], [item])
    played.wait(10)
    played.run.interrupt(130)
    assert played.asked() == {"A": ["stop"]}
    told = "then what was sent is handled: 1,000 messages for B (about 500 s); again: at once"
    assert played.output.lines[-1] == f"■ stopping: first A, {told}"
    played.run.interrupt(130)
    assert played.asked() == {"A": ["shutdown"], "B": ["stop by force"], "C": ["stop by force"]}
    played["B"].ends("stopped")
    assert played.asked() == {"B": ["shutdown"], "C": ["Del B"]}  # and nothing in order any more
    played.run.interrupt(130)
    assert played.asked() == {name: ["shutdown"] for name in "ABC"}
    for name in "AC":
        played[name].ends("stopped")
    for name in "ABC":
        played[name].goes()
    assert played.over == [130]


def test_a_signal_while_the_code_is_loaded_ends_everything(play: Callable[..., Played]) -> None:
    played = play("A >> B")
    played.run.begin()
    played["A"].loads()
    played.asked()
    played.run.interrupt(143)
    assert played.asked() == {"A": ["shutdown"], "B": ["shutdown", "shutdown"]}  # the second one kills
    played["B"].loads()
    assert played.asked() == {}


def test_a_node_that_returns_early_ends_those_that_send_to_it(play: Callable[..., Played]) -> None:
    played = play("A >> B >> C | A >> D")
    played.begin()
    played["C"].ends()
    played.wait(ENDS_TOGETHER_S / 2)
    assert played.asked() == {"C": ["shutdown"]}  # they may be about to end as well
    played.wait(ENDS_TOGETHER_S)
    assert played.asked() == {"A": ["stop"]}  # D still takes what A sends
    played["A"].ends("stopped")
    # What B has for C is not taken any more: it does not wait for that.
    assert played.asked() == {
        "A": ["shutdown"],
        "B": ["Del A", "stop by force"],
        "D": ["Del A", "stop"],
    }
    assert "■ C takes no more messages: A is stopped" in played.output.lines


def test_a_source_whose_messages_go_nowhere_any_more_is_stopped_by_force(play: Callable[..., Played]) -> None:
    played = play("A >> B >> C")
    played.begin()
    played["C"].ends()
    played.wait(ENDS_TOGETHER_S)
    assert played.asked() == {"A": ["stop by force"], "C": ["shutdown"]}


def test_a_failed_node_begins_again_as_often_as_the_document_says(play: Callable[..., Played]) -> None:
    played = play("A >> B >> C", retry={"policy": "OnError", "limit": 2})
    played.begin()
    for _ in range(2):
        played["B"].ends("failed", failure=FAILED)
        assert played.asked() == {"B": ["begin", "Add A"]}
    played["B"].ends("failed", failure=FAILED)
    assert played.asked() == {"A": ["stop by force"], "B": ["shutdown"], "C": ["stop by force", "Del B"]}
    assert played.run.status == 1
    assert "✘ B failed: ALGORITHM_ERROR: ValueError: no" in played.output.lines


def test_a_node_that_fails_while_it_ends_in_order_has_failed(play: Callable[..., Played]) -> None:
    played = play("A >> B >> C", retry={"policy": "Always", "limit": 9})
    played.begin()
    played["A"].ends()
    played.asked()
    played["B"].ends("failed", failure=FAILED)  # it is not begun again: nothing sends to it any more
    assert played.asked() == {"B": ["shutdown"], "C": ["Del B", "stop"]}
    assert played.run.status == 1
    assert "  the nodes after it still end in order" in played.output.lines


@pytest.mark.parametrize("is_program", [True, False])
def test_what_a_program_had_at_its_end_was_taken_and_our_own_process_says_it_later(
    play: Callable[..., Played], is_program: bool
) -> None:
    played = play("A >> B")
    played.begin()
    played["A"].is_program = is_program
    report = {"nodeName": "B", "sent": 5, "responses": 3, "queueSize": 2, "dropped": 0}
    played["A"].listener.on_statistics(played["A"], [report])
    played["A"].ends()
    if not is_program:
        report.update(sent=7, responses=6, queueSize=0)
        played["A"].listener.on_statistics(played["A"], [report])
    count = played.run._counts.between("A", "B")
    assert (count.sent, count.queued) == (7, 0)


def test_a_node_that_had_to_be_killed_when_it_was_stopped_has_not_failed(play: Callable[..., Played]) -> None:
    played = play("A >> B")
    played.begin()
    played["A"].ends()
    played.asked()
    exit = Exit(Cause.STOPPED)
    played["B"].ends("stopped", failure=Failure("STOP_FORCED", "STOP_FORCED: killed"), exit=exit)
    for name in "AB":
        played[name].goes()
    assert played.over == [0]
    assert any(line.startswith("■ B stopped after") for line in played.output.lines)


def test_code_that_cannot_be_loaded_ends_everything_before_it_begins(play: Callable[..., Played]) -> None:
    played = play("A >> B", stateType="stateless", minStatelessCount=2)
    played.run.begin()
    played["A"].loads()
    played.asked()
    failure = Failure("IMPORT_FAILED", "IMPORT_FAILED: ModuleNotFoundError: x")
    for name in ("B/1", "B/2"):
        played[name].listener.on_load_failed(played[name], failure)
    lines = [line for line in played.output.lines if "ModuleNotFoundError" in line]
    assert lines == ["✘ B: IMPORT_FAILED: ModuleNotFoundError: x"]  # once for both replicas
    for one in played.replicas:
        assert "shutdown" in one.asked
        one.goes()
    assert played.over == [4]


def test_a_line_shows_messages_a_second_the_queue_and_what_was_dropped(play: Callable[..., Played]) -> None:
    played = play("A >> B", stateType="stateless", minStatelessCount=2)
    played.begin()
    item = {"nodeName": "B", "sent": 200, "responses": 180, "dropped": 2, "queueSize": 4}
    played["A"].listener.on_statistics(played["A"], [item])
    played.wait(LINE_EVERY_S)
    assert played.output.lines[-1] == "◌ A 20/s · B x2 18/s, 4 queued, 2 dropped"
    played["A"].listener.on_statistics(played["A"], [{**item, "sent": 240, "responses": 240, "queueSize": 0}])
    played.wait(LINE_EVERY_S)
    assert played.output.lines[-1] == "◌ A 4/s · B x2 6/s, 2 dropped"


def test_a_reader_of_the_results_that_has_gone_gives_the_exit_status_of_a_broken_pipe(
    play: Callable[..., Played],
) -> None:
    played = play("A >> B")
    played.output.out = SimpleNamespace(broken=True, problem=None)
    played.begin()
    for name in "AB":
        played[name].ends()
        played[name].goes()
    assert played.over == [141]
