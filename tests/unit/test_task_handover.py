"""How a task gets to its child, with children that say what the test says."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hkrunner.boards.runs.history import list_tasks, show_task
from hkrunner.boards.runs.journal import Journal
from hkrunner.boards.runs.store import Store
from hkrunner.boards.runs.task_output import read_log
from hkrunner.runner.console.event_sink import EventSink
from hkrunner.runner.link.frames import BLOB_MIN
from hkrunner.runner.protocol import encoding
from hkrunner.runner.protocol.task_state import State
from hkrunner.runner.serving.task_handover import PREPARE_AFTER_S, RECORD_S, Handover, choose
from hkrunner.runner.serving.task_usage import WATCH_S
from hkrunner.sandbox.shared.messages import ApiCall, Begin, Done, TaskRead, UseFolder
from support.fake_serving import Serve, blob_of, is_open

#: Too large for its names to be found by the parent.
LARGE = encoding.NAMES_MAX


@pytest.mark.parametrize("bits", list(itertools.product((False, True), repeat=3)), ids=str)
def test_the_quickest_possible_way_is_chosen(bits: tuple[bool, bool, bool]) -> None:
    is_named, needs_no_init, waits_for_start = bits
    way = choose(is_named=is_named, needs_no_init=needs_no_init, waits_for_start=waits_for_start)
    if not is_named:
        assert way is Handover.CHILD_NAMES_IT
    elif not needs_no_init:
        assert way is Handover.NAMED_AHEAD
    else:
        assert way is (Handover.WITH_START if waits_for_start else Handover.AT_ONCE)


def test_a_task_whose_names_the_child_has_to_find_gets_its_folder_when_they_are_there(serve: Serve) -> None:
    one = serve()
    one.initialize(size=LARGE)
    assert one.child.kinds == ["Initialize"]
    one.child_reads()
    assert one.child.kinds == ["Initialize", "UseFolder"]
    one.child_initializes()
    one.start()
    one.child_answers()
    assert one.commands == ["initialized", "started", "done"]
    assert [result.task for result in one.results] == ["t1"]


@pytest.mark.parametrize("known", [None, {"taskId": "t1", "jobId": "j"}])
def test_the_names_of_a_programs_task_are_found_here_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, known: dict[str, str] | None
) -> None:
    found: list[int] = []
    ids_of = encoding.ids_of
    monkeypatch.setattr(encoding, "ids_of", lambda kind, data: found.append(len(data)) or ids_of(kind, data))
    one = serve()
    one.child.reads_at_once = True
    one.initialize()
    assert one.supervisor._control.task is not None
    one.supervisor._control.task.names = known  # by the storage process, which has read the task already
    one.child.says(TaskRead({}), one.number)
    one.child_initializes()
    one.start()
    one.child_answers()
    assert [result.task for result in one.results] == ["t1"]
    assert len(found) == (known is None)


@pytest.mark.parametrize(
    ("size", "kinds"),
    [(0, ["Begin"]), (100_000, ["Begin"]), (BLOB_MIN, ["Initialize", "UseFolder"])],
)
def test_of_a_task_of_any_usual_size_the_worker_is_told_before_the_child_has_read_it(
    serve: Serve, size: int, kinds: list[str]
) -> None:
    encoding.prepare_for_larger("json")
    one = serve(methods=("start",))
    one.initialize(size=size)
    assert one.child.kinds == kinds and one.commands == ["initialized"]
    last = one.child.sent[-1][1]
    assert isinstance(last, Begin | UseFolder) and last.is_announced
    if size >= BLOB_MIN:
        one.child_reads()
    one.start()
    one.child_answers()
    assert one.commands == ["initialized", "started", "done"]
    assert [result.task for result in one.results] == ["t1"]


def test_what_reads_the_names_in_larger_messages_is_imported_in_the_pause_after_the_first_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []
    monkeypatch.setattr(encoding, "finds_names_at_once", lambda encoding, size: bool(prepared))
    monkeypatch.setattr(encoding, "prepare_for_larger", prepared.append)
    one = serve(methods=("start",))
    one.initialize(size=9000)
    one.turn()
    assert one.child.kinds == ["Initialize"] and not prepared
    one.child_reads()
    one.start()
    one.child_answers()
    one.after(PREPARE_AFTER_S)
    assert prepared == ["json"]
    one.initialize("t2", size=9000)
    assert one.child.kinds[-1] == "Begin"


def test_a_named_task_goes_with_its_folder_and_init_is_waited_for(serve: Serve) -> None:
    one = serve()
    one.initialize()
    assert one.child.kinds == ["Begin"] and one.commands == []
    one.child_reads()
    one.child_initializes()
    assert one.child.kinds == ["Begin"] and one.commands == ["initialized"]


def test_without_an_init_the_worker_is_told_before_the_child_has_the_task(serve: Serve) -> None:
    one = serve(methods=("start",))
    one.initialize()
    assert one.child.kinds == ["Begin"] and one.commands == ["initialized"]
    begin = one.child.sent[0][1]
    assert isinstance(begin, Begin) and begin.is_announced
    one.start()
    one.child_answers()
    assert one.commands == ["initialized", "started", "done"]


def test_on_one_core_the_task_goes_to_the_child_together_with_its_start(serve: Serve) -> None:
    one = serve(methods=("start",), one_core=True)
    one.initialize()
    assert one.child.kinds == [] and one.commands == ["initialized"]
    one.start()
    assert one.child.kinds == ["BeginAndStart"]


@pytest.mark.parametrize(("cores", "polls"), [(1, False), (2, True)])
def test_what_comes_next_is_polled_for_on_more_than_one_core(cores: int, polls: bool, serve: Serve) -> None:
    one = serve(methods=("start",))
    one.loop.cores = cores
    one.initialize()
    awaits_start = one.loop._expected is not None
    one.turn()
    one.start()
    assert awaits_start == polls and (one.loop._expected is not None) == polls


@pytest.mark.parametrize("asked", ["stop", "exit", "initialize"])
def test_a_task_that_waits_for_its_start_goes_to_the_child_when_there_will_be_none(
    asked: str, serve: Serve
) -> None:
    one = serve(methods=("start",), one_core=True)
    one.initialize()
    getattr(one, asked)(*(("t2",) if asked == "initialize" else ()))
    assert one.child.sent[0][0] == 1 and one.child.kinds == ["Begin"]


@pytest.mark.parametrize("what", ["unread", "unkillable"])
def test_a_child_that_may_not_be_waiting_is_waited_for(what: str, serve: Serve) -> None:
    one = serve(methods=("start",))
    one.child.is_quiet = what != "unread"
    one.child.may_kill = what != "unkillable"
    one.initialize()
    assert one.child.kinds == ["Begin"] and one.commands == []
    begin = one.child.sent[0][1]
    assert isinstance(begin, Begin) and not begin.is_announced


def test_a_task_that_comes_while_the_code_loads_is_handed_over_at_once(serve: Serve) -> None:
    one = serve(methods=None)
    one.initialize()
    assert one.child.kinds == ["Initialize"]
    one.child.loads("init", "start")
    one.child_reads()
    one.child_initializes()
    assert one.commands == ["initialized"]


@pytest.mark.parametrize("starts_before", [False, True])
def test_a_task_whose_child_has_no_init_is_initialized_as_soon_as_the_child_has_read_its_names(
    starts_before: bool, serve: Serve
) -> None:
    one = serve(methods=None)
    one.initialize()
    if starts_before:
        one.start()
    one.child.loads("start")
    one.child_reads()
    place = one.child.sent[1][1]
    assert isinstance(place, UseFolder) and place.is_announced
    if not starts_before:
        assert one.child.kinds == ["Initialize", "UseFolder"] and one.commands == ["initialized"]
        one.start()
    assert one.child.kinds == ["Initialize", "UseFolder", "Start"]
    one.child_answers()
    assert one.commands == ["initialized", "started", "done"]


def test_the_worker_is_told_before_a_large_task_that_the_child_has_read_is_recorded(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, logs_ahead=False, journal=lambda layout: Journal(layout, "json"))
    one = serve(methods=("start",), store=store, state_dir=str(tmp_path), keep_values_bytes=1000)
    told: list[list[str]] = []
    opened = store.open
    monkeypatch.setattr(store, "open", lambda *ids, **more: told.append(one.commands) or opened(*ids, **more))
    one.initialize(size=LARGE)
    one.child_reads()
    assert told == [["initialized"]] and one.child.kinds == ["Initialize", "UseFolder"]
    one.after(RECORD_S)
    assert [(task.name, task.status) for task in list_tasks(tmp_path)] == [("t1", "active")]
    one.start()
    one.child_answers("x" * 1000)
    assert one.commands == ["initialized", "started", "done"]
    assert [*show_task(tmp_path, "t1").facts["notKept"]] == ["input", "output"]
    one.supervisor.shutdown(0)
    one.child.goes()


def test_a_start_that_comes_before_initialized_is_passed_on_when_the_child_is_ready(serve: Serve) -> None:
    one = serve()
    one.run_to(State.STARTING)
    one.start()
    assert one.commands == [] and one.child.kinds == ["Begin"]
    one.child_reads()
    one.child_initializes()
    assert one.commands == ["initialized", "started"] and one.child.kinds == ["Begin", "Start"]


def test_many_tasks_are_answered_once_each_by_one_child(serve: Serve) -> None:
    one = serve(methods=("start",))
    for number in range(5):
        one.initialize(f"t{number}")
        one.start()
        one.child_answers(number)
    assert one.commands == ["initialized", "started", "done"] * 5
    assert [message["data"] for message in one.link.posted if message["command"] == "done"] == [0, 1, 2, 3, 4]
    assert len(one.children) == 1


def test_a_task_without_a_name_gets_one(serve: Serve) -> None:
    one = serve(methods=("start",))
    one.initialize(None)
    one.start()
    one.child_answers()
    (result,) = one.results
    assert (result.task, result.pipeline, result.node) == ("task-1", "local", "main")


def test_messages_of_a_task_that_is_over_are_dropped_and_their_memory_closed(serve: Serve) -> None:
    one = serve(methods=("start",))
    one.initialize("t1")
    one.start()
    one.child_answers(1)
    one.initialize("t2")
    one.start()
    late = blob_of(b'{"command":"done","data":1}')
    one.child.says(Done(late), 1)
    one.child.says(ApiCall(b'{"command":"late"}'), 1)
    assert one.commands.count("done") == 1 and "late" not in one.commands
    assert not is_open(late.fd)


def test_a_task_that_lasts_is_recorded_as_active_after_a_millisecond(serve: Serve, tmp_path: Path) -> None:
    store = Store(tmp_path, logs_ahead=False, journal=lambda layout: Journal(layout, "json"))
    one = serve(methods=("start",), store=store, state_dir=str(tmp_path))

    def told() -> dict[str, str]:
        return {task.name: task.status for task in list_tasks(tmp_path)}

    for name in ("first", "short"):  # the first begins the journal
        one.initialize(name)
        one.start()
        one.child_answers()
    assert told() == {"first": "succeed", "short": "succeed"}
    for name in ("waits", "runs"):
        one.initialize(name)
        if name == "runs":
            one.start()
        assert name not in told()
        one.after(RECORD_S)
        assert told()[name] == "active"
        if name == "waits":
            one.start()
        one.child_answers()
        assert told()[name] == "succeed"
    one.supervisor.shutdown(0)
    one.child.goes()


def test_the_folder_of_a_task_that_lasts_is_made_before_its_answer_waits_for_it(
    serve: Serve, tmp_path: Path
) -> None:
    store = Store(tmp_path, logs_ahead=False, journal=lambda layout: Journal(layout, "json"))
    one = serve(methods=("start",), store=store, state_dir=str(tmp_path))
    for name, lasts in (("shorter", False), ("lasting", True)):
        one.initialize(name)
        one.start()
        one.after(WATCH_S)
        folder = tmp_path / "tasks" / name
        assert len(one.child.asked) == 1 + lasts and not folder.exists()
        if lasts:
            one.child.samples(answers=one.child.asked[-1])
            one.after(WATCH_S)
        assert folder.exists() == lasts
        one.child_answers()
    one.supervisor.shutdown(0)
    one.child.goes()


def test_how_limits_are_enforced_is_recorded_once_for_many_tasks(serve: Serve, tmp_path: Path) -> None:
    store = Store(tmp_path, logs_ahead=False, journal=lambda layout: Journal(layout, "json"))
    one = serve(methods=("start",), store=store, state_dir=str(tmp_path))
    for name in ("first", "second", "failed"):
        one.initialize(name)
        one.start()
        (one.child_answers if name != "failed" else one.child_fails)()
    (journal,) = (tmp_path / "journal").iterdir()
    assert journal.read_bytes().count(b'"protection"') == 1
    told = [show_task(tmp_path, name).facts["protection"] for name in ("first", "second", "failed")]
    assert told == [one.child.protection.as_dict()] * 3
    one.supervisor.shutdown(0)
    one.child.goes()


def test_what_is_shown_of_a_tasks_output_is_in_its_record(serve: Serve, tmp_path: Path) -> None:
    recorded: list[bytes] = []

    class Looking(EventSink):
        def printed(self, stream: str, data: bytes) -> None:
            recorded.append(read_log(tmp_path, "second", stream).data)

    store = Store(tmp_path, logs_ahead=False, journal=lambda layout: Journal(layout, "json"))
    one = serve(methods=("start",), store=store, state_dir=str(tmp_path), events=Looking())
    for name, printed in (("first", b""), ("second", b"x")):  # the first begins the journal
        one.initialize(name)
        one.start()
        one.child.unread = printed
        one.child_answers()
    assert recorded == [b"x"]
    one.supervisor.shutdown(0)
    one.child.goes()
