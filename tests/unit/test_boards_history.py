"""Records of earlier tasks: listed, read, repeated, removed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hkrunner.boards.errors import NotFound, StoreError
from hkrunner.boards.runs import history
from hkrunner.boards.runs.event_files import EventWriter
from hkrunner.boards.runs.history import (
    keep_latest,
    list_tasks,
    read_metrics,
    remove_tasks,
    repeat_of,
    show_task,
)
from hkrunner.boards.runs.store import Store
from hkrunner.boards.runs.task_ids import TaskIds
from hkrunner.boards.runs.task_output import read_log
from hkrunner.boards.runs.task_record import TaskRecord


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def run(store: Store, name: str, *, at: float = 1.0, job: str = "job") -> TaskRecord:
    record = store.open(
        TaskIds(name, job, "node", "pipe"), entry="a.py", started_at=at, extra={"settings": {"mem": "1Gi"}}
    )
    record.write("input.json", b"[1, 2]")
    record.append("stdout", b"one\ntwo\n")
    writer = EventWriter(record.metrics_dir)
    for step in range(3):
        writer.add({"loss": 3 - step}, step=step, at_s=at)
    writer.close()
    record.finish(
        {"status": "succeed", "endTime": 2000, "durationMs": 1000.5, "peakMemBytes": 5 << 20, "reason": None}
    )
    return record


def test_tasks_are_listed_in_the_order_of_their_start(store: Store) -> None:
    for name, at in (("t10", 3.0), ("t9", 2.0), ("t11", 4.0)):
        run(store, name, at=at)
    tasks = list_tasks(store.root)
    assert [task.name for task in tasks] == ["t9", "t10", "t11"]
    task = tasks[0]
    assert (task.status, task.start_time, task.end_time, task.duration_ms) == ("succeed", 2000, 2000, 1000.5)
    assert (task.entry, task.job, task.peak_bytes, task.event_files) == ("a.py", "job", 5 << 20, 1)
    assert task.size_bytes >= 4096


def test_an_empty_or_missing_state_folder_lists_nothing(tmp_path: Path) -> None:
    assert list_tasks(tmp_path / "none") == []
    Store(tmp_path).next_local_task()
    assert list_tasks(tmp_path) == []


def test_a_task_whose_hkrunner_was_killed_is_lost_and_one_that_runs_is_active(store: Store) -> None:
    program = (
        "import os, sys; from pathlib import Path; from hkrunner.boards.runs.store import Store\n"
        "from hkrunner.boards.runs.task_ids import TaskIds\n"
        "Store(Path(sys.argv[1])).open(TaskIds('lost', 'j', 'n', 'p'), entry='e', started_at=1.0)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, store.root], check=False)
    active = store.open(TaskIds("mine", "j", "n", "p"), entry="e", started_at=2.0)
    assert [(task.name, task.status) for task in list_tasks(store.root)] == [
        ("lost", "lost"),
        ("mine", "active"),
    ]
    active.finish({"status": "succeed"})


def test_a_task_is_shown_whole(store: Store) -> None:
    run(store, "t1")
    details = show_task(store.root, "t1")
    assert details.facts["settings"] == {"mem": "1Gi"}
    assert details.files == {"input.json": 6, "stderr.log": 0, "stdout.log": 8, "task.json": 4096}


def test_output_can_be_followed(store: Store) -> None:
    record = store.open(TaskIds("t1", "j", "n", "p"), entry="e", started_at=1.0)
    record.append("stdout", b"one\n")
    part = read_log(store.root, "t1", "stdout")
    assert (part.data, part.is_final) == (b"one\n", False)
    record.append("stdout", b"two\n")
    record.finish({"status": "succeed"})
    part = read_log(store.root, "t1", "stdout", offset=part.next_offset)
    assert (part.data, part.is_final) == (b"two\n", True)
    part = read_log(store.root, "t1", "stdout", limit_bytes=3)
    assert (part.data, part.is_final) == (b"one", False)
    assert read_log(store.root, "t1", "stderr").data == b""


def test_metrics_of_a_task_are_curves(store: Store) -> None:
    run(store, "t1")
    (curve,) = read_metrics(store.root, "t1")
    assert (curve.run, curve.tag, curve.last.value, curve.lowest, curve.highest) == (".", "loss", 1, 1, 3)


def test_a_task_can_be_repeated_with_its_input_and_settings(store: Store) -> None:
    run(store, "t1")
    repeat = repeat_of(store.root, "t1")
    assert (repeat.entry, repeat.input, repeat.settings) == ("a.py", b"[1, 2]", {"mem": "1Gi"})
    assert (repeat.job, repeat.node, repeat.pipeline) == ("job", "node", "pipe")


@pytest.mark.parametrize(
    "content",
    [
        *(None, b"[1, 2", b"\xff", b'["\xed\xa0\x80"]'),
        pytest.param(b"[" * 200_000 + b"]" * 200_000, id="deep"),
    ],
)
def test_a_task_without_its_input_is_not_repeated(store: Store, content: bytes | None) -> None:
    record = run(store, "t1")
    if content is None:
        (record.folder / "input.json").unlink()
        facts = json.loads((record.folder / "task.json").read_bytes())
        (record.folder / "task.json").write_text(json.dumps({**facts, "notKept": {"input": "much"}}))
    else:
        (record.folder / "input.json").write_bytes(content)
    reason = "its input was not recorded" if content is None else "its recorded input cannot be read"
    with pytest.raises(StoreError, match=f"task t1 cannot be run again: {reason}"):
        repeat_of(store.root, "t1")


def test_a_removed_task_leaves_nothing(store: Store) -> None:
    run(store, "t1")
    run(store, "t2")
    removed = remove_tasks(store.root, ["t1"])
    assert removed.names == ("t1",) and removed.freed_bytes > 0
    assert [task.name for task in list_tasks(store.root)] == ["t2"]
    assert [path.name for path in (store.root / "runs" / "pipe" / "node" / "job").iterdir()] == ["t2"]
    remove_tasks(store.root, ["t2"])
    assert list((store.root / "runs").iterdir()) == []


def test_nothing_is_removed_when_one_cannot_be(store: Store) -> None:
    run(store, "t1")
    active = store.open(TaskIds("t2", "j", "n", "p"), entry="e", started_at=2.0)
    with pytest.raises(StoreError, match="task t2 is still running; stop it first"):
        remove_tasks(store.root, ["t1", "t2"])
    with pytest.raises(NotFound, match="there is no task t3"):
        remove_tasks(store.root, ["t1", "t3"])
    assert len(list_tasks(store.root)) == 2
    active.finish({})


@pytest.mark.parametrize("name", ["..", ".", "", "../tasks/t1", "/etc", "x" * 300])
def test_no_name_leads_out_of_the_state_folder(store: Store, name: str) -> None:
    run(store, "t1")
    for ask in (show_task, repeat_of, read_metrics):
        with pytest.raises(NotFound):
            ask(store.root, name)
    with pytest.raises(NotFound):
        remove_tasks(store.root, [name])


def test_a_record_that_points_elsewhere_is_not_followed(store: Store, tmp_path: Path) -> None:
    record = run(store, "t1")
    outside = tmp_path / "precious"
    outside.mkdir()
    for place in ("../precious", "runs/../precious", str(outside)):
        facts = json.loads((record.folder / "task.json").read_bytes())
        (record.folder / "task.json").write_text(json.dumps({**facts, "metricsDir": place}))
        assert show_task(store.root, "t1").summary.metrics_dir is None
    remove_tasks(store.root, ["t1"])
    assert outside.is_dir()


def test_a_task_with_a_damaged_record_can_still_be_removed(store: Store) -> None:
    record = run(store, "t1")
    (record.folder / "task.json").write_text("{")
    with pytest.raises(StoreError, match="the record of task t1 cannot be read"):
        show_task(store.root, "t1")
    assert remove_tasks(store.root, ["t1"]).names == ("t1",)


def test_only_the_latest_are_kept_and_never_an_active_one_removed(store: Store) -> None:
    active = store.open(TaskIds("t0", "j", "n", "p"), entry="e", started_at=0.0)
    for number in range(1, 6):
        run(store, f"t{number}", at=float(number))
    assert keep_latest(store.root, 2).names == ("t1", "t2", "t3")
    assert [task.name for task in list_tasks(store.root)] == ["t0", "t4", "t5"]
    assert keep_latest(store.root, 10).names == ()
    active.finish({})


def test_two_runs_that_end_at_once_do_not_remove_the_same_records(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 6):
        run(store, f"t{number}", at=float(number))
    removed = []
    second = threading.Thread(target=lambda: removed.append(keep_latest(store.root, 2).names))
    remove = history._remove

    def remove_while_the_second_begins(root: Path, task: history.TaskSummary) -> None:
        if not second.ident:
            second.start()
            second.join(0.05)
        remove(root, task)

    monkeypatch.setattr(history, "_remove", remove_while_the_second_begins)
    assert keep_latest(store.root, 2).names == ("t1", "t2", "t3")
    second.join(10)
    assert removed == [()]


def test_the_interpreter_reads_history_without_tensorboard(store: Store) -> None:
    run(store, "t1")
    program = (
        "import sys; from pathlib import Path; from hkrunner.boards.runs import history\n"
        "assert history.read_metrics(Path(sys.argv[1]), 't1')\n"
        "assert not {'tensorboard', 'numpy', 'psutil', 'grpc'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, store.root], check=True)
