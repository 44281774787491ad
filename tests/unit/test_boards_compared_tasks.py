"""What tasks were given and what came of them, read once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hkrunner.boards.runs import compared_tasks
from hkrunner.boards.runs.compared_tasks import CACHE, ComparedTask, compare_tasks, last_values
from hkrunner.boards.runs.event_files import EventWriter
from hkrunner.boards.runs.history import list_tasks, remove_tasks
from hkrunner.boards.runs.store import Store
from hkrunner.boards.runs.task_ids import TaskIds


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def run(store: Store, rate: float, *, at_ms: int, status: str = "succeed") -> None:
    """Record a task that began and ended at this time, in ms since the epoch."""
    ids = TaskIds("t1", "job", "train", "local")
    record = store.open(ids, entry="a.py", started_at=at_ms / 1000)
    record.write("input.json", json.dumps([{"rate": rate}]).encode())
    for folder, tag in ((record.metrics_dir, "loss"), (record.metrics_dir / "resources", "~resources/x")):
        writer = EventWriter(folder)
        writer.add({tag: 1.0}, step=0, at_s=1.0)
        writer.add({tag: rate / 2}, step=1, at_s=2.0)
        writer.close()
    record.write("output.json", json.dumps({"loss": rate, "name": "mlp"}).encode())
    record.finish({"status": status, "endTime": at_ms, "durationMs": 1500.0, "peakMemBytes": 5 << 20})


def compared(store: Store) -> list[ComparedTask]:
    return compare_tasks(store.root, list_tasks(store.root))


def test_a_task_has_its_values_under_plain_and_exact_names(store: Store) -> None:
    run(store, 0.5, at_ms=2000, status="failed")
    (task,) = compared(store)
    assert task.run == "t1 rate=0.5 ✘"
    values = task.by_key
    assert (values["rate"], values["input.rate"]) == (0.5, 0.5)
    assert (values["loss"], values["metrics.loss"], values["output.loss"]) == (0.25, 0.25, 0.5)
    assert (values["duration"], values["peak"], values["status"]) == (1.5, 5 << 20, "failed")
    assert not [key for key in values if "resources" in key] and "reason" not in values


def test_values_of_an_ended_task_are_read_once_and_never_taken_for_anothers(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(store, 0.5, at_ms=2000)
    first = compared(store)
    with monkeypatch.context() as patched:
        patched.setattr(compared_tasks, "show_task", None)  # a call would raise
        assert compared(store) == first
    remove_tasks(store.root, ["t1"])
    run(store, 0.25, at_ms=3000)
    (other,) = compared(store)
    assert (other.values.inputs, other.run) == ({"rate": 0.25}, "t1 rate=0.25")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"version": 2, "tasks": {"t1": [2000, 2000, 3]}}', '{"version": 0}']
)
def test_a_damaged_cache_is_not_used(content: str, store: Store) -> None:
    run(store, 0.5, at_ms=2000)
    (store.root / CACHE).write_text(content)
    (task,) = compared(store)
    assert task.values.inputs == {"rate": 0.5}
    assert json.loads((store.root / CACHE).read_bytes())["tasks"]["t1"][2] == {"rate": 0.5}


def test_values_are_not_kept_of_a_task_that_runs_or_has_just_ended(store: Store) -> None:
    ids = TaskIds("t2", "job", "train", "local")
    record = store.open(ids, entry="a.py", started_at=4.0)
    assert [task.run for task in compared(store)] == ["t2"]
    record.write("input.json", b"[7]")
    assert [task.run for task in compared(store)] == ["t2 7"]
    record.finish({"status": "succeed"})
    assert CACHE not in os.listdir(store.root)


def test_tasks_of_a_node_show_the_same_last_values_below_each_other(store: Store) -> None:
    for number, rate in enumerate((0.123456, 0.5)):
        record = store.open(TaskIds("t1", "job", "train", "local"), entry="a.py", started_at=1.0)
        writer = EventWriter(record.metrics_dir)
        long = {f"a/long/name/{name}": rate for name in "xyz"}
        writer.add({"loss": rate, **long, "best": float(number)}, step=0, at_s=1.0)
        writer.close()
        record.finish({"status": "succeed", "endTime": 1000})
    record = store.open(TaskIds("t1", "job", "other", "local"), entry="b.py", started_at=1.0)
    record.write("output.json", b'{"score": 3}')
    record.finish({"status": "succeed", "endTime": 1000})
    texts = last_values(sorted(compared(store), key=lambda task: task.summary.node))
    assert texts == [
        "score=3",
        "loss=0.123456 a/long/name/x=0.123456 a/long/name/y=0.123456 best=0",
        "loss=0.5      a/long/name/x=0.5      a/long/name/y=0.5      best=1",
    ]
