"""The folder that TensorBoard reads for a board, and what its HParams tab finds there."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hkrunner.boards.runs.event_files import EventWriter, read_scalars
from hkrunner.boards.runs.files import ProcessIdentity
from hkrunner.boards.runs.hparams import START_FILE_NAME, TaskOutcome, has_sessions, write_outcome
from hkrunner.boards.runs.store import Store
from hkrunner.boards.runs.task_ids import TaskIds
from hkrunner.boards.runs.task_record import TaskRecord
from hkrunner.boards.tensorboard.run_view import RunView


class Tasks:
    """Recorded tasks, and the view of a board that shows them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root)
        self.view = RunView(str(root / "boards" / "view"), root=str(root), log_dir=str(root / "runs"))
        self.view._depth = 4

    def begin(self, task: str, value: object | None = None, *, node: str = "train") -> TaskRecord:
        ids = TaskIds(task, "job1", node, "local")
        record = self.store.open(ids, entry="train.py", started_at=time.time())
        if value is not None:
            record.write("input.json", json.dumps([value]).encode())
        return record

    def shown(self) -> list[str]:
        """The names in the view, brought up to date."""
        self.view.refresh()
        return sorted(os.listdir(self.view.folder))

    def folder(self, name: str) -> Path:
        return Path(os.path.realpath(f"{self.view.folder}/{name}"))


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    made = Tasks(tmp_path)
    yield made
    made.store.close()


def end(record: TaskRecord, status: str = "succeed", result: object = None, **more: object) -> None:
    if result is not None:
        record.write("output.json", json.dumps(result).encode())
    now_ms = round(time.time() * 1000)
    record.finish(
        {"status": status, "durationMs": 1500.0, "peakMemBytes": 3 << 20, "endTime": now_ms, **more}
    )


def write_points(folder: Path, tag: str = "loss") -> None:
    writer = EventWriter(folder)
    writer.add({tag: 0.5}, step=1, at_s=1000.0)
    writer.close()


def hparams_of(folder: Path) -> tuple[dict[str, object], int]:
    """The hyperparameters and the status of the session in the folder, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    contents = accumulator.PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    ended = metadata.parse_session_end_info_plugin_data(contents[metadata.SESSION_END_INFO_TAG])
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    return values, ended.status


def test_a_running_task_is_shown_and_its_new_files_follow(tasks: Tasks) -> None:
    record = tasks.begin("t1", {"lr": 0.02})
    assert tasks.shown() == ["t1 lr=0.02"]
    write_points(record.metrics_dir)
    write_points(record.metrics_dir / "resources", "~resources/cpu_cores")
    write_points(record.metrics_dir / "validation")
    tasks.view.refresh()
    read = read_scalars(tasks.folder("t1 lr=0.02"))
    assert set(read["."]) == {"loss", "~resources/cpu_cores"}
    assert set(read) == {".", "validation"}

    # Afterwards they are in one file with the outcome, once.
    end(record)
    tasks.view.refresh()
    series = read_scalars(tasks.folder("t1 lr=0.02"))["."]
    assert len(series["~resources/cpu_cores"]) == 1 and "~task/succeeded" in series


def test_a_task_whose_input_is_recorded_late_is_shown_and_then_renamed(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.begin("t1", {"lr": 1})
    late = tasks.begin("t2")
    never = tasks.begin("t3")
    assert tasks.shown() == ["t1 lr=1"]
    monkeypatch.setattr("hkrunner.boards.tensorboard.run_view._INPUT_DEADLINE_S", 0.0)
    assert tasks.shown() == ["t1 lr=1", "t2", "t3"]
    late.write("input.json", b'[{"lr": 2}]')
    assert tasks.shown() == ["t1 lr=1", "t2 lr=2", "t3"]
    end(late)
    end(never)
    assert tasks.shown() == tasks.shown() == ["t1 lr=1", "t2 lr=2", "t3"]


def test_a_failed_task_is_renamed_once_and_a_good_one_never(tasks: Tasks) -> None:
    records = [tasks.begin(f"t{number}", {"lr": number}) for number in (1, 2, 3)]
    assert tasks.shown() == ["t1 lr=1", "t2 lr=2", "t3 lr=3"]
    end(records[0])
    end(records[1], "failed")
    end(records[2], "stopped")
    assert tasks.shown() == ["t1 lr=1", "t2 lr=2 ✘", "t3 lr=3 ■"]
    tasks.begin("t4", {"lr": 4, "momentum": 0.9})
    assert tasks.shown() == ["t1 lr=1", "t2 lr=2 ✘", "t3 lr=3 ■", "t4 lr=4 momentum=0.9"]


def test_an_ended_task_has_its_input_and_outcome_as_hyperparameters_and_metrics(tasks: Tasks) -> None:
    record = tasks.begin("t1", {"lr": 0.02, "opt": {"name": "sgd", "nesterov": True}})
    write_points(record.metrics_dir)
    end(record, result={"loss": 0.25, "name": "x", "deep": {"n": 3}})
    (name,) = tasks.shown()
    folder = tasks.folder(name)
    assert hparams_of(folder) == ({"lr": 0.02, "opt.name": "sgd", "opt.nesterov": True}, 1)
    last = {tag: points[-1].value for tag, points in read_scalars(folder)["."].items()}
    assert last == {
        "loss": 0.5,
        "~output/loss": 0.25,
        "~output/deep.n": 3,
        "~task/duration_s": 1.5,
        "~task/peak_memory_mib": 3,
        "~task/succeeded": 1,
    }
    failed = tasks.begin("t2", {"lr": 1})
    end(failed, "failed")
    (_, name) = tasks.shown()
    assert hparams_of(tasks.folder(name)) == ({"lr": 1.0}, 2)
    assert read_scalars(tasks.folder(name))["."]["~task/succeeded"][-1].value == 0


def test_hyperparameters_of_the_users_own_are_left_alone(tasks: Tasks) -> None:
    record = tasks.begin("t1", {"lr": 0.02})
    theirs = record.metrics_dir / "1700000000.1"
    theirs.mkdir()
    write_outcome(
        str(theirs), TaskOutcome({"mine": 1}, {}, 1000.0, 1001.0, True), resources=(), is_session=True
    )
    assert has_sessions(str(record.metrics_dir))
    end(record)
    (name,) = tasks.shown()
    with pytest.raises(KeyError):
        hparams_of(tasks.folder(name))
    assert hparams_of(tasks.folder(name) / "1700000000.1") == ({"mine": 1.0}, 1)


def test_a_running_task_has_a_session_until_its_outcome_has_one(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hkrunner.boards.tensorboard.run_view._SESSION_AFTER_S", -1.0)
    record = tasks.begin("t1", {"lr": 0.02})
    (name,) = tasks.shown()
    assert running_session_of(tasks.folder(name)) == {"lr": 0.02}
    assert tasks.view.state()["running"] == 1
    before = tasks.view.state()["changes"]
    end(record)
    assert tasks.shown() == [name]
    assert hparams_of(tasks.folder(name)) == ({"lr": 0.02}, 1)
    assert START_FILE_NAME not in os.listdir(tasks.folder(name))
    assert tasks.view.state()["running"] == 0 and tasks.view.state()["changes"] > before


def test_a_running_session_gives_way_to_hyperparameters_that_come_late(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data server forgets it when the run is gone for a while."""
    monkeypatch.setattr("hkrunner.boards.tensorboard.run_view._SESSION_AFTER_S", -1.0)
    record = tasks.begin("t1", {"lr": 0.02})
    (name,) = tasks.shown()
    theirs = TaskOutcome({"mine": 1}, {}, 1000.0, 1001.0, True)
    write_outcome(str(record.metrics_dir), theirs, resources=(), is_session=True)
    end(record)
    assert tasks.shown() == []
    monkeypatch.setattr("hkrunner.boards.tensorboard.run_view._HIDDEN_S", -1.0)
    assert tasks.shown() == [name]
    assert START_FILE_NAME not in os.listdir(tasks.folder(name))


def test_a_failed_task_has_its_error_and_last_output_as_text(tasks: Tasks) -> None:
    record = tasks.begin("t1", {"lr": 1})
    record.append("stdout", b"x" * 5000 + b"\nepoch 1 **loss** <b>\n")
    error = {"code": "ALGORITHM_ERROR", "message": "ALGORITHM_ERROR: bad\nrate", "details": "Traceback …"}
    end(record, "failed", error=error, memLimitBytes=1 << 30)
    (name,) = tasks.shown()
    texts = {tag: text for tag, text in texts_of(tasks.folder(name)).items() if tag.startswith("~task/")}
    assert texts == {
        "~task/error": "    ALGORITHM_ERROR: bad\n    rate\n    \n    Traceback …",
        "~task/stdout": "    epoch 1 **loss** <b>",
    }
    layout = layout_of(tasks.folder(name))
    assert [list(chart.multiline.tag) for group in layout.category for chart in group.chart] == [
        ["^~resources/memory_mib$", "^~resources/memory_limit_mib$"]
    ]
    good = tasks.begin("t2", {"lr": 2})
    good.append("stdout", b"fine\n")
    end(good)
    assert texts_of(tasks.folder(tasks.shown()[1])) == {}


def running_session_of(folder: Path) -> dict[str, object]:
    """The hyperparameters of a session that has begun, as TensorBoard reads them."""
    from tensorboard.plugins.hparams import metadata

    contents = accumulated(folder).PluginTagToContent("hparams")
    assert set(contents) == {metadata.SESSION_START_INFO_TAG}
    start = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}


def texts_of(folder: Path) -> dict[str, str]:
    """What the Text tab shows of the folder, by tag."""
    accumulator = accumulated(folder)
    try:
        tags = accumulator.PluginTagToContent("text")
    except KeyError:
        return {}
    return {tag: accumulator.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in tags}


def layout_of(folder: Path) -> Any:
    """The charts that the Custom Scalars tab draws."""
    from tensorboard.plugins.custom_scalar import layout_pb2

    content = accumulated(folder).Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0]
    return layout_pb2.Layout.FromString(content)


def accumulated(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_a_session_is_found_where_two_parts_of_a_file_meet(tmp_path: Path) -> None:
    tag = b"_hparams_/session_start_info"
    (tmp_path / "events.out.tfevents.1").write_bytes(b"x" * ((1 << 20) - 10) + tag + b"x" * 100)
    assert has_sessions(str(tmp_path))
    (tmp_path / "events.out.tfevents.1").write_bytes(b"x" * (3 << 20))
    assert not has_sessions(str(tmp_path))


def test_a_session_is_found_at_the_end_of_a_large_file(tmp_path: Path) -> None:
    with (tmp_path / "events.out.tfevents.1").open("wb") as file:
        file.seek(1 << 34)  # the disk holds the last block only
        file.write(b"_hparams_/session_start_info")
    assert has_sessions(str(tmp_path))


def test_a_pipe_among_the_event_files_does_not_hold_a_board(tasks: Tasks) -> None:
    record = tasks.begin("t1", 1)
    os.mkfifo(record.metrics_dir / "events.out.tfevents.1")
    (record.metrics_dir / "resources").mkdir(exist_ok=True)
    os.mkfifo(record.metrics_dir / "resources" / "events.out.tfevents.1")
    end(record)
    assert tasks.shown() == ["t1 1"]


def test_a_task_whose_hkrunner_was_killed_is_marked(tasks: Tasks) -> None:
    record = tasks.begin("t1", {"lr": 1})
    path = record.folder / "task.json"
    facts = json.loads(path.read_text())
    facts["owner"]["started"] = "another boot"
    path.write_text(json.dumps(facts))
    assert tasks.shown() == ["t1 lr=1 ✘"]


def test_a_task_that_ends_just_before_its_hkrunner_does_is_not_marked(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tasks.begin("t1", {"lr": 1})
    assert tasks.shown() == ["t1 lr=1"]

    def ends_first(_: ProcessIdentity) -> bool:
        end(record)
        return False

    monkeypatch.setattr(ProcessIdentity, "is_alive", ends_first)
    assert tasks.shown() == ["t1 lr=1"]


def test_a_removed_task_leaves_the_view(tasks: Tasks) -> None:
    first, second = tasks.begin("t1", 1), tasks.begin("t2", 2)
    end(first)
    end(second)
    assert tasks.shown() == ["t1 1", "t2 2"]
    shutil.rmtree(first.metrics_dir)
    shutil.rmtree(first.folder)
    assert tasks.shown() == ["t2 2"]


def test_a_record_that_is_removed_without_its_metrics_holds_no_other_task_up(tasks: Tasks) -> None:
    first, second = tasks.begin("t1", 1), tasks.begin("t2", 2)
    assert tasks.shown() == ["t1 1", "t2 2"]
    shutil.rmtree(first.folder)
    write_points(first.metrics_dir)
    end(second, "failed")
    assert "t2 2 ✘" in tasks.shown()
    assert not first.folder.exists()


def test_event_files_without_a_record_keep_their_path(tasks: Tasks) -> None:
    write_points(tasks.root / "runs" / "earlier" / "found" / "job" / "files")
    write_points(tasks.root / "runs" / "flat")
    tasks.view.refresh()
    assert set(read_scalars(tasks.folder("earlier/found/job/files"))) == {"."}
    assert set(read_scalars(tasks.folder("flat"))) == {"."}
    assert tasks.view.count(["earlier/found/job/files", "earlier/found/job/files/sub", "flat"]) == 2


def test_the_files_of_a_cluster_are_shown_while_and_after_they_are_shared(tmp_path: Path) -> None:
    tasks = Tasks(tmp_path / "state")
    tasks.store = Store(tasks.root, metrics_dir=tmp_path / "shared")
    first = tasks.begin("t1", 1)
    write_points(tmp_path / "shared")
    assert tasks.shown() == ["t1 1"]
    assert set(read_scalars(tasks.folder("t1 1"))) == {"metrics"}
    end(first)
    tasks.begin("t2", 2)
    assert tasks.shown() == ["t1 1", "t2 2"]
    assert set(read_scalars(tasks.folder("t1 1"))) >= {"metrics"}
    assert set(read_scalars(tasks.folder("t2 2"))) == set()
    tasks.store.close()


def test_nothing_is_left_of_a_view_and_it_does_not_come_back(tasks: Tasks) -> None:
    tasks.begin("t1", 1)
    assert tasks.shown() == ["t1 1"]
    tasks.view.remove()
    tasks.view.refresh()
    assert not Path(tasks.view.folder).exists()
