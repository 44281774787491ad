"""The one path to which an algorithm writes metrics leads to the folder of the current task."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hkrunner.boards.runs.layout import RESOURCES
from hkrunner.boards.runs.store import Store
from hkrunner.sandbox.linux import kernel
from support.boards import open_task


def test_the_metrics_path_stays_and_leads_to_each_task_in_turn(store: Store) -> None:
    links = set()
    for name in ("t1", "t2"):
        record = open_task(store, name)
        links.add(Path(record.metrics.link))
        (Path(record.metrics.link) / "mark").write_text(name)
        assert (record.metrics_dir / "mark").read_text() == name
        assert record.environment == {
            "ALGO_METRICS_DIR": record.metrics.link,
            "HKRUNNER_TASK_METRICS_DIR": str(record.metrics_dir),
        }
        record.finish({})
    assert len(links) == 1


def test_code_that_resolves_the_path_at_import_writes_to_each_task_in_turn(store: Store) -> None:
    resolved = Path(store.environment()["ALGO_METRICS_DIR"]).resolve(strict=True)
    (resolved / "header").write_text("made at import")
    for name in ("t1", "t2"):
        record = open_task(store, name)
        (resolved / "mark").write_text(name)
        assert (record.metrics_dir / "mark").read_text() == name
        record.finish({})
    (header,) = store.root.rglob("header")
    assert header.parent.name == "t1"


@pytest.mark.parametrize("more", [(), ("with a task",)])
def test_what_an_import_wrote_is_kept_when_its_hkrunner_is_killed(
    state_root: Path, more: tuple[str, ...]
) -> None:
    program = (
        "import os, sys; from pathlib import Path; from hkrunner.boards.runs.store import Store\n"
        "from hkrunner.boards.runs.task_ids import TaskIds\n"
        "store = Store(Path(sys.argv[1])); place = Path(store.environment()['ALGO_METRICS_DIR'])\n"
        "(place / 'header').write_text('')\n"
        "if sys.argv[2:]: store.open(TaskIds('t1', 'job', 'node', 'mnist'), entry='e', started_at=1.0)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, state_root, *more], check=False)
    store = Store(state_root)
    place = Path(store.environment()["ALGO_METRICS_DIR"])
    # Nothing of the next one goes there.
    assert (
        place == state_root / "current" / "1" / "metrics"
        and not place.is_symlink()
        and list(place.iterdir()) == []
    )
    (kept,) = (state_root / "runs").rglob("header")
    assert kept.relative_to(state_root / "runs").parts[0] == ("mnist" if more else "earlier")
    store.close()
    assert list((state_root / "current").iterdir()) == []


@pytest.mark.parametrize("can_exchange", [True, False])
def test_each_task_keeps_the_link_to_its_metrics(
    state_root: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: str) -> None:
        raise OSError(errno.EINVAL, "not on this file system")

    if not can_exchange:
        monkeypatch.setattr(kernel, "exchange", refuse)
    store = Store(state_root)
    records = [open_task(store, name) for name in ("t1", "t2", "t3")]
    for record in records:
        record.finish({})
        assert record.problems == []
    store.close()
    for record in records[0 if can_exchange else -1 :]:
        assert (record.folder / "metrics").resolve(strict=True) == record.metrics_dir
        assert not os.path.isabs(os.readlink(record.folder / "metrics")), "the state folder may be moved"


def test_a_task_removed_while_the_next_begins_does_no_harm(store: Store) -> None:
    first = open_task(store, "t1")
    first.finish({})
    shutil.rmtree(first.folder)
    second = open_task(store, "t2")
    second.finish({})
    assert second.problems == [] and Path(second.metrics.link).resolve() == second.metrics_dir


def test_two_stores_at_once_have_paths_of_their_own(state_root: Path) -> None:
    stores = [Store(state_root), Store(state_root)]
    records = [open_task(store, f"t{number}") for number, store in enumerate(stores)]
    assert records[0].metrics.link != records[1].metrics.link
    for store in stores:
        store.close()
    assert list((state_root / "current").iterdir()) == []


def test_the_path_of_a_killed_hkrunner_is_used_again(state_root: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from hkrunner.boards.runs.store import Store\n"
        "from hkrunner.boards.runs.task_ids import TaskIds\n"
        "store = Store(Path(sys.argv[1]))\n"
        "store.open(TaskIds('a', 'b', 'c', 'd'), entry='e', started_at=1.0)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, state_root], check=False)
    assert (state_root / "current" / "1" / "metrics").is_symlink()
    store = Store(state_root)
    assert open_task(store).metrics.link == str(state_root / "current" / "1" / "metrics")
    store.close()


def test_metrics_that_go_to_an_earlier_task_are_reported_once(store: Store) -> None:
    first = open_task(store, "t1")
    writer = (first.metrics_dir / "events.out.tfevents.1").open("wb", buffering=0)
    writer.write(b"first")
    first.finish({})
    problems = []
    for name in ("t2", "t3"):
        record = open_task(store, name)
        (record.metrics_dir / RESOURCES).mkdir()
        (record.metrics_dir / RESOURCES / "events.out.tfevents.2").write_bytes(b"our own do not count")
        writer.write(b"more")
        record.finish({})
        problems.append(record.problems)
    writer.close()
    (sentence,) = problems[0]
    assert "metrics of this task went to task t1" in sentence and "create it inside start()" in sentence
    assert problems[1] == []


def test_a_task_without_metrics_after_one_with_them_is_no_problem(store: Store) -> None:
    first = open_task(store, "t1")
    (first.metrics_dir / "events.out.tfevents.1").write_bytes(b"first")
    first.finish({})
    second = open_task(store, "t2")
    second.finish({})
    assert second.problems == []


def test_a_task_in_the_cluster_sees_the_clusters_folder_fresh(state_root: Path, tmp_path: Path) -> None:
    volume = tmp_path / "metrics"
    store = Store(state_root, metrics_dir=volume)
    first = open_task(store, "t1")
    assert Path(first.metrics.link) == volume and list(volume.iterdir()) == []
    assert first.environment["HKRUNNER_TASK_METRICS_DIR"] == str(volume)
    (volume / "train").mkdir()
    (volume / "train" / "events").write_text("of t1")
    assert (first.metrics_dir / "metrics" / "train" / "events").read_text() == "of t1"
    first.finish({})
    # The worker uploads now: nothing may have moved yet.
    assert (volume / "train" / "events").exists()

    second = open_task(store, "t2")
    assert list(volume.iterdir()) == []
    assert (first.metrics_dir / "metrics" / "train" / "events").read_text() == "of t1"
    assert not (first.metrics_dir / "metrics").is_symlink()
    assert second.problems == []
    second.finish({})
    store.close()


def test_what_a_killed_hkrunner_left_in_the_clusters_folder_goes_to_its_task(
    state_root: Path, tmp_path: Path
) -> None:
    volume = tmp_path / "metrics"
    program = (
        "import os, sys; from pathlib import Path; from hkrunner.boards.runs.store import Store\n"
        "from hkrunner.boards.runs.task_ids import TaskIds\n"
        "store = Store(Path(sys.argv[1]), metrics_dir=Path(sys.argv[2]))\n"
        "store.open(TaskIds('a', 'b', 'c', 'd'), entry='e', started_at=1.0)\n"
        "(Path(sys.argv[2]) / 'events').write_text('of a')\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, state_root, volume], check=False)
    store = Store(state_root, metrics_dir=volume)
    record = open_task(store)
    assert list(volume.iterdir()) == []
    assert (state_root / "runs" / "d" / "c" / "b" / "a" / "metrics" / "events").read_text() == "of a"
    record.finish({})
    store.close()


def test_files_of_nobody_in_the_clusters_folder_are_kept(state_root: Path, tmp_path: Path) -> None:
    volume = tmp_path / "metrics"
    volume.mkdir()
    (volume / "events").write_text("of somebody")
    store = Store(state_root, metrics_dir=volume)
    record = open_task(store)
    assert list(volume.iterdir()) == []
    (kept,) = (state_root / "runs" / "earlier" / "found").rglob("events")
    assert kept.read_text() == "of somebody"
    record.finish({})
    store.close()


def test_a_cluster_folder_that_cannot_be_emptied_is_reported(state_root: Path, tmp_path: Path) -> None:
    volume = tmp_path / "metrics"
    volume.write_text("a file, not a folder")
    store = Store(state_root, metrics_dir=volume)
    record = open_task(store)
    (sentence,) = record.problems
    assert str(volume) in sentence and "could not be emptied" in sentence
    record.finish({})
    store.close()


def test_isolated_code_has_one_folder_for_metrics_where_no_record_can_be_kept(tmp_path: Path) -> None:
    """Its process sees the folders that were there when it began, and no others."""
    file = tmp_path / "file"  # nothing can be made there, as on a read-only disk
    file.touch()
    store = Store(file / "records")
    store.keep_metrics_apart()
    place = store.environment()["ALGO_METRICS_DIR"]
    silent, writes = open_task(store, "t1"), open_task(store, "t2")
    silent.finish({})
    Path(place, "events").write_text("of t2")
    writes.finish({})
    assert {one.environment["ALGO_METRICS_DIR"] for one in (silent, writes)} == {place}
    said = [[text for text in one.problems if text.startswith("metrics")] for one in (silent, writes)]
    assert said == [[], [f"metrics of this task are in {place}; nothing else keeps them"]]
    os.unlink(f"{place}/events")
    store.close()
    assert not os.path.exists(place)
