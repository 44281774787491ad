"""What a task leaves on disk, whatever the disk says."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hkrunner.boards.runs.store import Store
from hkrunner.boards.runs.task_ids import TaskIds, local_job_id
from hkrunner.boards.runs.task_record import TaskRecord
from support.boards import open_task
from support.waiting import wait_until

IDS = TaskIds("t1", "job", "node", "pipeline")


def facts(record: TaskRecord) -> dict[str, object]:
    value = json.loads((record.folder / "task.json").read_bytes())
    assert isinstance(value, dict)
    return value


def test_a_store_creates_nothing_before_it_is_used(state_root: Path) -> None:
    Store(state_root)
    assert not state_root.exists()


def test_an_open_task_is_on_disk_and_active(store: Store, state_root: Path) -> None:
    record = store.open(IDS, entry="a.py", started_at=1000.25, extra={"limits": {"mem": 1}})
    assert record.name == "t1" and record.folder == state_root / "tasks" / "t1"
    assert record.metrics_dir == state_root / "runs" / "pipeline" / "node" / "job" / "t1"
    assert facts(record) == facts(record) | {
        "taskId": "t1",
        "jobId": "job",
        "nodeName": "node",
        "pipelineName": "pipeline",
        "entry": "a.py",
        "status": "active",
        "startTime": 1000250,
        "limits": {"mem": 1},
        "metricsDir": "runs/pipeline/node/job/t1",
    }
    assert (record.folder / "stdout.log").read_bytes() == b"" == (record.folder / "stderr.log").read_bytes()
    assert record.problems == []
    record.finish({})


def test_a_finished_task_says_its_outcome_once(store: Store) -> None:
    record = open_task(store)
    record.append("stdout", b"one\n")
    record.append("stderr", b"two\n")
    record.append("stdout", b"three\n")
    record.write("output.json", b"6")
    record.finish({"status": "succeed", "durationMs": 3})
    record.finish({"status": "failed"})
    record.append("stdout", b"late\n")
    assert facts(record)["status"] == "succeed" and facts(record)["durationMs"] == 3
    assert (record.folder / "stdout.log").read_bytes() == b"one\nthree\n"
    assert (record.folder / "stderr.log").read_bytes() == b"two\n"
    assert (record.folder / "output.json").read_bytes() == b"6"


def test_a_long_outcome_is_kept_whole(store: Store) -> None:
    record = open_task(store)
    record.finish({"status": "failed", "error": {"message": "x" * 10_000}})
    assert facts(record)["error"] == {"message": "x" * 10_000}


def test_an_outcome_after_a_long_start_is_kept_whole(store: Store) -> None:
    record = store.open(IDS, entry="a.py", started_at=1.0, extra={"long": "y" * 10_000})
    assert facts(record)["status"] == "active"
    record.finish({"status": "succeed"})
    assert facts(record)["status"] == "succeed" and facts(record)["long"] == "y" * 10_000


def test_a_repeated_task_id_gets_a_folder_and_metrics_of_its_own(store: Store) -> None:
    records = [open_task(store) for _ in range(3)]
    assert [record.name for record in records] == ["t1", "t1.2", "t1.3"]
    assert len({record.metrics_dir for record in records}) == 3
    for record in records:
        record.finish({})


def test_metrics_of_a_task_whose_record_was_removed_are_not_mixed_with_new_ones(store: Store) -> None:
    first = open_task(store)
    (first.metrics_dir / "events.out.tfevents.1").write_bytes(b"old")
    first.finish({})
    for path in first.folder.iterdir():
        path.unlink()
    first.folder.rmdir()
    second = open_task(store)
    assert second.name == "t1" and second.metrics_dir.name == "t1.2"
    second.finish({})


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "../../../etc", "x" * 300, "a\0b", "\ud800", "né"])
def test_a_task_is_never_lost_for_its_names(store: Store, state_root: Path, text: str) -> None:
    record = store.open(TaskIds(text, text, text, text), entry="a.py", started_at=1.0)
    again = store.open(TaskIds(text, text, text, text), entry="a.py", started_at=2.0)
    for one in (record, again):
        assert one.problems == []
        assert one.folder.parent == state_root / "tasks" and one.metrics_dir.parents[3] == state_root / "runs"
        assert facts(one)["taskId"] == facts(one)["jobId"] == text
        one.finish({})
    assert record.folder != again.folder


def test_local_tasks_are_numbered_on(store: Store, state_root: Path) -> None:
    assert [store.next_local_task() for _ in range(3)] == ["t1", "t2", "t3"]
    record = open_task(store, "t2")
    assert record.name == "t2"
    record.finish({})
    assert Store(state_root).next_local_task() == "t4"


def test_two_hkrunners_never_share_a_local_task(state_root: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from hkrunner.boards.runs.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "print(*[store.next_local_task() for _ in range(100)])"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", program, state_root], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    names = [name for process in both for name in process.communicate()[0].split()]
    assert len(names) == 200 == len(set(names))


def test_output_is_bounded_and_says_so(state_root: Path) -> None:
    store = Store(state_root, stream_limit_bytes=10)
    record = open_task(store)
    for _ in range(5):
        record.append("stdout", b"abcdef")
    record.append("stderr", b"whole")
    record.finish({})
    assert (record.folder / "stdout.log").read_text().splitlines() == [
        "abcdefabcd",
        "[hkrunner: stdout is cut here, 10 bytes are kept of a task]",
    ]
    assert (record.folder / "stderr.log").read_bytes() == b"whole"
    store.close()


def test_a_full_disk_is_reported_once_and_the_task_goes_on(store: Store) -> None:
    record = open_task(store)
    for stream in ("stdout", "stderr"):
        (record.folder / f"{stream}.log").unlink()
        (record.folder / f"{stream}.log").symlink_to("/dev/full")
    for _ in range(3):
        record.append("stdout", b"x")
        record.append("stderr", b"x")
    record.finish({"status": "succeed"})
    (sentence,) = record.problems
    assert "No space left on device (ENOSPC)" in sentence and "the task goes on" in sentence
    assert facts(record)["status"] == "succeed" and facts(record)["problems"] == [sentence]


@pytest.mark.parametrize("place", ["/proc/1/hkrunner", "/dev/null/state"])
def test_a_state_folder_that_nobody_can_make_does_not_stop_a_task(place: str) -> None:
    store = Store(Path(place))
    assert store.next_local_task() == "t1" and store.next_local_task() == "t2"
    record = open_task(store)
    record.append("stdout", b"x")
    record.write("output.json", b"1")
    assert Path(record.metrics.link).is_dir(), "a writer of the user's must not fail for it"
    (Path(record.metrics.link) / "events").write_text("kept")
    record.finish({"status": "succeed"})
    assert record.problems and "cannot be kept" in record.problems[0]
    assert any(record.metrics.link in problem for problem in record.problems)
    (Path(record.metrics.link) / "events").unlink()
    Path(record.metrics.link).rmdir()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_disk_that_refuses_in_the_middle_is_one_sentence(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    record = open_task(store)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        record.append("stdout", b"x")
        record.write("output.json", b"1")
        record.finish({"status": "succeed"})
    (sentence,) = record.problems
    assert os.strerror(number) in sentence
    assert facts(record)["status"] == "active", "the record stays valid JSON"


def test_a_state_folder_removed_while_running_comes_back(store: Store, state_root: Path) -> None:
    first = open_task(store, "t1")
    shutil.rmtree(state_root)
    first.finish({"status": "succeed"})
    second = open_task(store, "t2")
    second.finish({"status": "succeed"})
    assert second.problems == [] and facts(second)["status"] == "succeed"
    assert Path(second.metrics.link).resolve() == second.metrics_dir.resolve()


def test_a_kill_at_any_moment_leaves_readable_records(state_root: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from hkrunner.boards.runs.store import Store\n"
        "from hkrunner.boards.runs.task_ids import TaskIds\n"
        "store = Store(Path(sys.argv[1]))\n"
        "for number in range(10**6):\n"
        "    record = store.open(TaskIds(f't{number}', 'j', 'n', 'p'), entry='e', started_at=1.0)\n"
        "    record.finish({'status': 'succeed', 'text': 'x' * (number % 5000)})\n"
    )
    for number in range(5):
        folder = state_root / str(number)
        run_and_kill([sys.executable, "-c", program, str(folder)], folder / "tasks", 20 * number)
        for path in folder.glob("tasks/*/task.json"):
            assert json.loads(path.read_bytes())["status"] in ("active", "succeed")


def run_and_kill(command: list[str], folder: Path, count: int) -> None:
    """Run the command until the folder holds more than count entries, then SIGKILL it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def are_there() -> bool:
        return folder.is_dir() and len(list(folder.iterdir())) > count

    try:
        wait_until(are_there, deadline_s=60, what="some tasks")
    finally:
        process.kill()
        process.wait()


def test_a_local_job_is_named_by_its_time() -> None:
    job = local_job_id(time.mktime((2026, 11, 23, 18, 5, 9, 0, 0, -1)))
    assert job.startswith("20261123-180509-") and len(job) == 20
