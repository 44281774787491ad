"""While a worker is served, old records are removed in pauses, and their number is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hkrunner.boards.runs.history import list_tasks
from hkrunner.boards.runs.journal import Journal
from hkrunner.boards.runs.store import Store
from hkrunner.boards.runs.task_ids import TaskIds
from hkrunner.runner.app import retention
from hkrunner.runner.app.retention import Retention
from hkrunner.runner.console.terminal import Output
from hkrunner.runner.io.loop import Loop
from hkrunner.runner.protocol.result import Result
from support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loop(clock: Clock) -> Iterator[Loop]:
    loop = Loop(clock=clock)
    yield loop
    loop.close()


@pytest.fixture
def end_task(loop: Loop, tmp_path: Path) -> Callable[[int], None]:
    enforcer = Retention(
        loop, tmp_path, 3, Output(loop, local=False, quiet=True, verbose=False, encoding="utf-8")
    )

    def end(number: int) -> None:
        folder = tmp_path / "tasks" / f"t{number:03}"
        folder.mkdir(parents=True)
        enforcer.task_ended(Result("t", "j", "n", "p", "succeed", 0.0, 0.0, 0.0, folder=str(folder)))
        loop.turn(0)

    return end


def left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "tasks").iterdir())


def test_the_oldest_are_removed_in_a_pause(
    end_task: Callable[[int], None], loop: Loop, clock: Clock, tmp_path: Path
) -> None:
    for number in range(8):
        end_task(number)
        clock.now += retention.PAUSE_S / 2
    assert len(left(tmp_path)) == 8
    clock.now += retention.PAUSE_S
    loop.turn(0)
    assert left(tmp_path) == ["t005", "t006", "t007"]


def test_without_a_pause_there_is_a_bound(
    end_task: Callable[[int], None], clock: Clock, tmp_path: Path
) -> None:
    for number in range(100):
        end_task(number)
        clock.now += retention.PAUSE_S / 4
    assert len(left(tmp_path)) <= 3 * retention.MOST_TIMES + 4


def test_many_are_removed_a_few_at_a_time(
    end_task: Callable[[int], None], loop: Loop, clock: Clock, tmp_path: Path
) -> None:
    for number in range(30):
        end_task(number)
    clock.now += retention.PAUSE_S
    loop.turn(0)
    assert len(left(tmp_path)) == 30 - retention.AT_ONCE
    clock.now += retention.NEXT_S
    loop.turn(0)
    assert len(left(tmp_path)) == 3


def test_tasks_of_the_journal_are_forgotten_and_folders_they_got_late_removed(
    loop: Loop, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FORGOTTEN_AT_ONCE", 1)
    store = Store(tmp_path, logs_ahead=False, journal=lambda layout: Journal(layout, "json", keep=2))
    output = Output(loop, local=False, quiet=True, verbose=False, encoding="utf-8")
    enforcer = Retention(loop, str(tmp_path), 2, output, store)
    for name in ("t1", "t2", "t3", "t4"):
        ids = TaskIds(name, "j", "n", "p")
        record = store.open(ids, entry="e", started_at=float(name[1:]), wire=b"")
        record.finish({"status": "succeed"})
        result = Result(name, "j", "n", "p", "succeed", 0.0, 0.0, 0.0)
        result.journal_number, result.record_name = record.journal_number, record.name
        if name == "t2":
            (Path(record.metrics.link) / "late").write_text("of t2")
        enforcer.task_ended(result)
    assert left(tmp_path) == ["t2"] and len(list_tasks(tmp_path)) == 4
    clock.now += retention.PAUSE_S
    loop.turn(0)
    assert [one.name for one in list_tasks(tmp_path)] == ["t2", "t3", "t4"], "the loop serves others between"
    clock.now += retention.NEXT_S
    loop.turn(0)
    assert left(tmp_path) == [] and list((tmp_path / "runs").rglob("late")) == []
    assert [one.name for one in list_tasks(tmp_path)] == ["t3", "t4"]
    store.close()


def test_metrics_go_with_their_task(loop: Loop, clock: Clock, tmp_path: Path) -> None:
    store = Store(tmp_path)
    enforcer = Retention(
        loop, tmp_path, 1, Output(loop, local=False, quiet=True, verbose=False, encoding="utf-8")
    )
    for name in ("t1", "t2"):
        record = store.open(TaskIds(name, "j", "n", "p"), entry="e", started_at=1.0)
        (record.metrics_dir / "events").write_text(name)
        record.finish({"status": "succeed"})
        enforcer.task_ended(Result(name, "j", "n", "p", "succeed", 0.0, 0.0, 0.0, folder=str(record.folder)))
    store.close()
    clock.now += retention.PAUSE_S
    loop.turn(0)
    assert left(tmp_path) == ["t2"]
    assert [path.read_text() for path in (tmp_path / "runs").rglob("events")] == ["t2"]
