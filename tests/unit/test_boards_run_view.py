"""What a board shows of recorded tasks, as TensorBoard's plugins read it."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hkrunner.boards.runs.event_files import EventWriter, bytes_field, file_record, summary_event
from hkrunner.boards.runs.files import ProcessIdentity
from hkrunner.boards.runs.history import list_tasks
from hkrunner.boards.runs.hparams import EXPERIMENT, SESSION_START, session_start
from hkrunner.boards.runs.store import Store
from hkrunner.boards.runs.task_ids import TaskIds
from hkrunner.boards.runs.task_record import TaskRecord
from hkrunner.boards.runs.task_values import Scalar
from hkrunner.boards.tensorboard import run_view
from hkrunner.boards.tensorboard.journal_view import JournalView
from hkrunner.boards.tensorboard.run_links import RunLinks, count_event_files
from hkrunner.boards.tensorboard.run_view import RunView
from hkrunner.boards.tensorboard.viewed_task import ViewedTask
from support.waiting import wait_until
from tensorboard.context import RequestContext

CTX = RequestContext()
RUNNING, SUCCESS, FAILURE = 3, 1, 2  # TensorBoard's api.proto


class Tasks:
    """Recorded tasks, and the view of a board that shows them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root)
        self.view = RunView(
            str(root / "boards" / "view"), root=str(root), log_dir=str(root / "runs"), max_files=100_000
        )
        self.view._depth = 4

    def begin(self, task: str, value: object | None = None, *, node: str = "train") -> TaskRecord:
        ids = TaskIds(task, "job1", node, "local")
        record = self.store.open(ids, entry="train.py", started_at=time.time())
        if value is not None:
            record.write("input.json", json.dumps([value]).encode())
        return record

    def shown(self) -> list[str]:
        """The names on the board, brought up to date."""
        self.view.refresh()
        return sorted(self.view.shown().keys)

    def data(self) -> Any:
        """What TensorBoard's plugins read, with its own reader of event files below."""
        from hkrunner.boards.tensorboard.run_data import RunData
        from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
        from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

        multiplexer = EventMultiplexer().AddRunsFromDirectory(self.view.folder)
        multiplexer.Reload()
        return RunData(MultiplexerDataProvider(multiplexer, self.view.folder), self.view.shown)

    def context(self) -> Any:
        """What the HParams tab is loaded with."""
        from tensorboard.plugins.base_plugin import TBContext

        return TBContext(data_provider=self.data())

    def last_values(self, **filtered: Any) -> dict[str, dict[str, float]]:
        """The last value of each scalar, by run and tag."""
        found = self.data().read_last_scalars(CTX, experiment_id="", plugin_name="scalars", **filtered)
        return {
            run: {tag: datum.value for tag, datum in sorted(tags.items())}
            for run, tags in sorted(found.items())
        }

    def sessions(self) -> dict[str, tuple[dict[str, object], int]]:
        """The hyperparameters and the status of each row of the HParams tab, by run."""
        from tensorboard.plugins.hparams import metadata

        found = {}
        listed = self.data().list_tensors(CTX, experiment_id="", plugin_name="hparams")
        for run, tags in listed.items():
            start = metadata.parse_session_start_info_plugin_data(tags[SESSION_START].plugin_content)
            ended = metadata.parse_session_end_info_plugin_data(
                tags[metadata.SESSION_END_INFO_TAG].plugin_content
            )
            values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
            found[run] = (values, ended.status)
        return found

    def texts(self, plugin: str = "text") -> dict[str, dict[str, bytes]]:
        """What the Text tab shows, by run and tag; of another plugin its tensors."""
        listed = self.data().list_tensors(CTX, experiment_id="", plugin_name=plugin)
        read = self.data().read_tensors(CTX, experiment_id="", plugin_name=plugin, downsample=1)
        assert {run: set(tags) for run, tags in listed.items()} == {
            run: set(tags) for run, tags in read.items()
        }
        return {run: {tag: data[-1].numpy.item() for tag, data in tags.items()} for run, tags in read.items()}


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


def write_own_session(folder: Path, more: Mapping[str, bytes] | None = None) -> None:
    """Write hyperparameters as a user's writer does. more: further contents of the plugin, by tag."""
    values = []
    for tag, content in {SESSION_START: session_start({"mine": 1}, 1000.0), **(more or {})}.items():
        plugin = bytes_field(1, b"hparams") + bytes_field(2, content)
        tensor = bytes_field(8, b"\x08\x01\x12\x02\x12\x00")
        values.append(bytes_field(1, tag.encode()) + tensor + bytes_field(9, bytes_field(1, plugin)))
    version = file_record(struct.pack("<Bd", 0x09, 1000.0) + bytes_field(3, b"brain.Event:2"))
    (folder / "events.out.tfevents.1700000000").write_bytes(
        version + file_record(summary_event(1000.0, 0, values))
    )


def test_a_running_task_is_shown_with_its_resources_and_its_new_files_follow(tasks: Tasks) -> None:
    record = tasks.begin("t1", {"lr": 0.02})
    assert tasks.shown() == ["t1 lr=0.02"]
    write_points(record.metrics_dir)
    write_points(record.metrics_dir / "resources", "~resources/cpu_cores")
    write_points(record.metrics_dir / "validation")
    assert tasks.last_values() == {
        "t1 lr=0.02": {"loss": 0.5, "~resources/cpu_cores": 0.5},
        "t1 lr=0.02/validation": {"loss": 0.5},
    }
    (one, two) = sorted(tasks.data().list_runs(CTX, experiment_id=""), key=lambda run: run.run_name)
    assert (one.run_name, two.run_name) == ("t1 lr=0.02", "t1 lr=0.02/validation")
    assert one.start_time == pytest.approx(time.time(), abs=60)
    # A mark is part of the name, and changes it at once for all that was read already.
    end(record, "failed")
    tasks.view.refresh()
    assert set(tasks.last_values()) == {"t1 lr=0.02 ✘", "t1 lr=0.02 ✘/validation"}


def test_only_what_is_asked_for_is_read(tasks: Tasks) -> None:
    from tensorboard.data.provider import RunTagFilter

    for number in (1, 2):
        record = tasks.begin(f"t{number}", {"lr": number})
        write_points(record.metrics_dir)
        write_points(record.metrics_dir / "resources", "~resources/cpu_cores")
        write_points(record.metrics_dir / "sub")
        end(record)
    tasks.view.refresh()
    cpu = RunTagFilter(runs=["t2 lr=2"], tags=["~resources/cpu_cores", "~task/succeeded"])
    assert tasks.last_values(run_tag_filter=cpu) == {
        "t2 lr=2": {"~resources/cpu_cores": 0.5, "~task/succeeded": 1.0}
    }
    assert tasks.last_values(run_tag_filter=RunTagFilter(runs=["t1 lr=1/sub"])) == {
        "t1 lr=1/sub": {"loss": 0.5}
    }
    assert tasks.last_values(run_tag_filter=RunTagFilter(runs=["t3", ""])) == {}
    points = tasks.data().read_scalars(
        CTX, experiment_id="", plugin_name="scalars", downsample=10, run_tag_filter=cpu
    )
    assert [datum.value for datum in points["t2 lr=2"]["~task/succeeded"]] == [1.0]
    assert tasks.data().list_plugins(CTX, experiment_id="") == ["hparams", "scalars"]


def test_a_task_whose_input_is_recorded_late_is_shown_and_then_renamed(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_view, "_INPUT_DEADLINE_S", 3600.0)
    tasks.begin("t1", {"lr": 1})
    late = tasks.begin("t2")
    never = tasks.begin("t3")
    assert tasks.shown() == ["t1 lr=1"]
    monkeypatch.setattr(run_view, "_INPUT_DEADLINE_S", 0.0)
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
    assert tasks.sessions() == {name: ({"lr": 0.02, "opt.name": "sgd", "opt.nesterov": True}, SUCCESS)}
    assert tasks.last_values()[name] == {
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
    assert tasks.sessions()[name] == ({"lr": 1.0}, FAILURE)
    assert tasks.last_values()[name]["~task/succeeded"] == 0


def test_a_running_task_has_a_row_that_gives_way_to_hyperparameters_of_the_users_own(tasks: Tasks) -> None:
    record = tasks.begin("t1", {"lr": 0.02})
    (name,) = tasks.shown()
    assert tasks.sessions() == {name: ({"lr": 0.02}, RUNNING)}
    before = tasks.view.state()
    assert before["running"] == 1
    theirs = record.metrics_dir / "1700000000.1"
    theirs.mkdir()
    write_own_session(theirs)
    listed = tasks.data().list_tensors(CTX, experiment_id="", plugin_name="hparams")
    assert {run: list(tags) for run, tags in listed.items()} == {f"{name}/1700000000.1": [SESSION_START]}
    end(record)
    assert tasks.shown() == [name]
    assert set(tasks.data().list_tensors(CTX, experiment_id="", plugin_name="hparams")) == {
        f"{name}/1700000000.1"
    }
    assert tasks.view.state()["running"] == 0 and tasks.view.state()["changes"] > before["changes"]


def test_tasks_that_did_not_get_to_their_own_hyperparameters_are_compared_with_those_that_did(
    tasks: Tasks,
) -> None:
    from tensorboard.plugins.hparams import api_pb2, backend_context, metadata

    record = tasks.begin("t1", {"lr": 0.02})
    declared = api_pb2.Experiment(hparam_infos=[api_pb2.HParamInfo(name="mine", type=3)])
    content = metadata.create_summary_metadata(
        metadata.plugin_data_pb2.HParamsPluginData(experiment=declared)
    )
    write_own_session(record.metrics_dir, {EXPERIMENT: content.plugin_data.content})
    end(record)

    def columns() -> set[str]:
        context = backend_context.Context(tasks.context())
        listed = context.hparams_metadata(CTX, "")
        found = context.experiment_from_metadata(CTX, "", False, listed, [])
        return {info.name for info in found.hparam_infos}

    tasks.shown()
    assert columns() == {"mine"}
    end(tasks.begin("t2", {"lr": 0.3}), "failed")
    tasks.shown()
    assert columns() == {"mine", "lr"}


def test_a_failed_task_has_its_error_and_last_output_as_text(tasks: Tasks) -> None:
    from tensorboard.plugins.custom_scalar import layout_pb2

    record = tasks.begin("t1", {"lr": 1})
    record.append("stdout", b"x" * 5000 + b"\nepoch 1 **loss** <b>\n")
    error = {"code": "ALGORITHM_ERROR", "message": "ALGORITHM_ERROR: bad\nrate", "details": "Traceback …"}
    end(record, "failed", error=error, memLimitBytes=1 << 30)
    good = tasks.begin("t2", {"lr": 2})
    good.append("stdout", b"fine\n")
    end(good)
    (name, _) = tasks.shown()
    assert tasks.texts() == {
        name: {
            "~task/error": "    ALGORITHM_ERROR: bad\n    rate\n    \n    Traceback …".encode(),
            "~task/stdout": b"    epoch 1 **loss** <b>",
        }
    }
    layout = layout_pb2.Layout.FromString(tasks.texts("custom_scalars")[name]["custom_scalars__config__"])
    assert [list(chart.multiline.tag) for group in layout.category for chart in group.chart] == [
        ["^~resources/memory_mib$", "^~resources/memory_limit_mib$"]
    ]
    assert {"text", "custom_scalars"} <= set(tasks.data().list_plugins(CTX, experiment_id=""))
    # It is read again at each request: nothing of the text is left once the record is gone.
    shutil.rmtree(record.folder)
    assert set(tasks.texts()[name]) == {"~task/error"}


def test_a_pipe_among_the_event_files_does_not_hold_a_board(tasks: Tasks) -> None:
    record = tasks.begin("t1", 1)
    os.mkfifo(record.metrics_dir / "events.out.tfevents.1")
    (record.metrics_dir / "resources").mkdir(exist_ok=True)
    os.mkfifo(record.metrics_dir / "resources" / "events.out.tfevents.1")
    end(record)
    assert tasks.shown() == ["t1 1"]


def test_of_very_many_tasks_none_is_linked_that_leads_out_of_its_metrics(tmp_path: Path) -> None:
    runs = [tmp_path / "runs" / f"r{number}" for number in range(600)]
    for run in runs:
        run.mkdir(parents=True)
    (runs[300] / "all").symlink_to("/")
    links = RunLinks(str(tmp_path / "boards" / "view"), root=str(tmp_path), max_files=100_000)
    links.add((str(run), run.name) for run in runs)
    assert set(os.listdir(links.folder)) == {run.name for run in runs} - {"r300"}
    assert links.notes() == ["r300 is shown without its curves: 'all' among its metrics is a link to /"]


def test_a_task_with_a_link_out_of_its_metrics_is_shown_without_curves_and_noted(tasks: Tasks) -> None:
    elsewhere = tasks.root / "elsewhere"
    write_points(elsewhere)
    records = {
        name: tasks.begin(name, number) for number, name in enumerate(("root", "deep", "safe", "runs"))
    }
    for record in records.values():
        write_points(record.metrics_dir)
        (record.metrics_dir / "below").mkdir()
    assert tasks.shown() == ["deep 1", "root 0", "runs 3", "safe 2"] and tasks.view.notes() == ()
    (records["root"].metrics_dir / "here").symlink_to("/")
    end(records["root"])
    (records["deep"].metrics_dir / "below" / "link").symlink_to(elsewhere)
    end(records["deep"], "failed")
    # What readers of event files follow, and what leads to a place in the folder.
    (records["safe"].metrics_dir / "latest").symlink_to("below")
    (records["safe"].metrics_dir / "other").mkdir()
    (records["safe"].metrics_dir / "below" / "again").symlink_to("../other")
    (records["safe"].metrics_dir / "mine").symlink_to(elsewhere)
    (records["safe"].metrics_dir / "file").symlink_to("/etc/hostname")
    end(records["safe"])
    (records["runs"].metrics_dir / "others").symlink_to("../../..")  # it still runs
    tasks.view._open[str(records["runs"].metrics_dir)].checked_s = 0.0
    assert tasks.shown() == ["deep 1 ✘", "root 0", "runs 3", "safe 2"]
    assert sorted(tasks.view.notes()) == [
        f"deep is shown without its curves: 'below/link' among its metrics is a link to {elsewhere}",
        "root is shown without its curves: 'here' among its metrics is a link to /",
        f"runs is shown without its curves: 'others' among its metrics is a link to {tasks.root}/runs/local",
    ]
    with_curves = {name for name, values in tasks.last_values().items() if "loss" in values}
    assert with_curves == {"safe 2", "safe 2/mine"}


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


def test_no_input_or_result_takes_a_task_or_another_one_from_the_board(tasks: Tasks) -> None:
    values: list[object] = [
        {"n": 10**400, "loss": 0.5},
        {"nan": math.nan, "inf": math.inf, "zero": -0.0},
        {"a\nb": 1, "\ud800": 2, "": 3, "~task/succeeded": 4},
        {"Loss": 1, "loss": 2, "\u00e9": 3, "e\u0301": 4},
        {f"key{number}": number for number in range(10_000)},
        {"text": "x" * 100_000, "on": True, "one": 1},
    ]
    for number, value in enumerate(values):
        end(tasks.begin(f"t{number}", value), result=value)
    deep = tasks.begin("t6")
    deep.write("input.json", b"[" * 1000 + b"]" * 1000)
    end(deep)
    names = tasks.shown()
    assert [name.partition(" ")[0] for name in names] == [f"t{number}" for number in range(7)]
    assert tasks.view.notes() == ()
    last = {name.partition(" ")[0]: values for name, values in tasks.last_values().items()}
    assert {tag: last["t0"][tag] for tag in last["t0"] if "output" in tag} == {"~output/loss": 0.5}
    assert last["t1"]["~output/inf"] == math.inf and math.isnan(last["t1"]["~output/nan"])
    assert last["t2"]["~task/succeeded"] == 1 and last["t2"]["~output/~task/succeeded"] == 4
    assert last["t2"]["~output/\ufffd"] == 2
    assert [last["t3"][f"~output/{key}"] for key in ("Loss", "loss", "\u00e9", "e\u0301")] == [1, 2, 3, 4]
    assert len(last["t4"]) == 64 + 3
    rows = {name.partition(" ")[0]: row for name, (row, _) in tasks.sessions().items()}
    assert rows["t0"] == {"n": str(10**400)[:100], "loss": 0.5}
    assert rows["t5"]["on"] is True and rows["t5"]["one"] == 1.0


def test_a_record_with_impossible_facts_is_shown_without_them(tasks: Tasks) -> None:
    end(tasks.begin("t1", 1), durationMs=10**400, peakMemBytes=math.nan, endTime=math.inf)
    assert tasks.shown() == ["t1 1"] and tasks.view.notes() == ()
    assert tasks.last_values()["t1 1"] == {"~task/duration_s": 0.0, "~task/succeeded": 1.0}
    (listed,) = list_tasks(tasks.root)
    assert (listed.duration_ms, listed.peak_bytes, listed.end_time) == (None, None, None)


def test_a_record_that_breaks_our_code_is_noted_and_holds_no_other_task_up(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(value: dict[str, Scalar]) -> dict[str, float]:
        raise ZeroDivisionError("of\na record") if value.get("n") == 1 else AssertionError

    for number in range(3):
        end(tasks.begin(f"t{number}", number), "failed", result={"n": number})
    monkeypatch.setattr("hkrunner.boards.tensorboard.viewed_task.numbers", breaks)
    monkeypatch.setattr("hkrunner.boards.tensorboard.run_view._MAX_UNREADABLE", 1)
    assert tasks.shown() == ["t0 0 ✘", "t1 1 ✘", "t2 2 ✘"]
    assert "the record of t1 cannot be read: ZeroDivisionError: of a record\n" in capsys.readouterr().err
    assert tasks.view.notes()[1:] == ("the records of 2 further tasks cannot be read",)
    monkeypatch.setattr(ViewedTask, "read_inputs", lambda _: breaks({"n": 1}))
    end(tasks.begin("t3", 3))
    assert tasks.shown() == ["t0 0 ✘", "t1 1 ✘", "t2 2 ✘", "t3"]


def test_a_board_goes_on_after_an_error_and_says_so_while_it_lasts(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    is_broken = threading.Event()
    runs = JournalView.runs_below

    def breaks(*args: Any) -> dict[str, str]:
        if is_broken.is_set():
            raise KeyError("journal")
        return runs(*args)

    monkeypatch.setattr(JournalView, "runs_below", breaks)
    is_broken.set()
    tasks.begin("t1", 1)
    tasks.view.follow()
    note = "new tasks cannot be shown: KeyError: 'journal'"
    wait_until(lambda: tasks.view.notes() == (note,), what="the note")
    is_broken.clear()
    wait_until(lambda: list(tasks.view.shown().keys) == ["t1 1"], what="the task")
    wait_until(lambda: tasks.view.notes() == (), what="the end of the note")
    tasks.view.remove()
    assert capsys.readouterr().err == f"hkrunner: {note}\n"


def test_tasks_are_shown_without_links_while_none_can_be_made_and_linked_then(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    records = [tasks.begin(f"t{number}", number) for number in range(3)]
    for name in ("link", "symlink"):
        monkeypatch.setattr(os, name, refused)
    with pytest.raises(OSError, match="No space"):
        tasks.view.refresh()
    assert sorted(tasks.view.shown().keys) == ["t0 0", "t1 1", "t2 2"]
    monkeypatch.undo()
    shutil.rmtree(records[0].metrics_dir)
    assert "t0 0" not in tasks.shown()
    assert len(os.listdir(tasks.view.folder)) == 2


def test_the_folders_of_many_tasks_are_not_listed_again_in_each_slice_of_work(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = []
    listed = tasks.view._runs

    def counted(folder: str, path: str, depth: int) -> Any:
        if depth == 4:
            walks.append(folder)
        return listed(folder, path, depth)

    monkeypatch.setattr(tasks.view, "_runs", counted)
    monkeypatch.setattr(run_view, "_BATCH", 1)
    monkeypatch.setattr(run_view, "_REFRESH_S", 3600.0)
    for number in range(5):
        end(tasks.begin(f"t{number}", number))
    while len(tasks.view.shown().tasks) < 5:
        tasks.view.refresh(0.0)
    end(tasks.begin("t5", 5))
    assert len(tasks.shown()) == 5
    assert walks == [str(tasks.root / "runs")]
    assert len(tasks.shown()) == 6  # nothing was left to do, so that new ones were looked for


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
    assert set(tasks.last_values()) == {"earlier/found/job/files", "flat"}
    assert tasks.view.count(["earlier/found/job/files", "earlier/found/job/files/sub", "flat"]) == 2


def test_the_files_of_a_cluster_are_shown_while_and_after_they_are_shared(tmp_path: Path) -> None:
    tasks = Tasks(tmp_path / "state")
    tasks.store = Store(tasks.root, metrics_dir=tmp_path / "shared")
    first = tasks.begin("t1", 1)
    write_points(tmp_path / "shared")
    assert tasks.shown() == ["t1 1"]
    assert set(tasks.last_values()) == {"t1 1/metrics"}
    end(first)
    tasks.begin("t2", 2)
    assert tasks.shown() == ["t1 1", "t2 2"]
    assert set(tasks.last_values()) == {"t1 1", "t1 1/metrics"}
    tasks.store.close()


def test_nothing_is_left_of_a_view_and_it_does_not_come_back(tasks: Tasks) -> None:
    tasks.begin("t1", 1)
    assert tasks.shown() == ["t1 1"]
    tasks.view.remove()
    tasks.view.refresh()
    assert not Path(tasks.view.folder).exists()


# ---- as many event files as may be open


def test_a_board_of_many_tasks_links_the_latest_as_long_as_their_files_can_be_open(tmp_path: Path) -> None:
    for number in range(6):
        write_points(tmp_path / "runs" / f"r{number}", "loss")
        write_points(tmp_path / "runs" / f"r{number}" / "resources", "cpu")
    runs = [(f"{tmp_path}/runs/r{number}", f"r{number}") for number in range(6)]
    assert count_event_files(runs[0][0]) == 2
    links = RunLinks(str(tmp_path / "boards" / "view"), root=str(tmp_path), max_files=256 + 8)
    links.add(reversed(runs[:5]))  # the latest first
    assert sorted(os.listdir(links.folder)) == ["r1", "r2", "r3", "r4"] and links.notes()[0].startswith(
        "1 older task"
    )
    links.add([runs[5]])
    assert sorted(os.listdir(links.folder)) == ["r2", "r3", "r4", "r5"] and links.notes()[0].startswith(
        "2 older task"
    )
    links.remove("r0")
    links.remove("r3")
    assert sorted(os.listdir(links.folder)) == ["r2", "r4", "r5"] and links.notes()[0].startswith(
        "1 older task"
    )
    assert (Path(links.folder) / "r5").resolve() == tmp_path / "runs" / "r5"
    links.remove_all()


def test_the_link_of_a_task_gets_a_second_name_and_no_inode(tasks: Tasks) -> None:
    end(tasks.begin("t1", 1))
    tasks.begin("t2", 2)  # by now the first has its link
    tasks.shown()
    (first, second) = sorted(Path(tasks.view.folder).iterdir())
    own = tasks.root / "tasks" / "t1" / "metrics"
    assert first.lstat().st_ino == own.lstat().st_ino and first.resolve() == own.resolve()
    assert second.resolve() == tasks.root / "runs" / "local" / "train" / "job1" / "t2"
