"""Event files that TensorBoard reads, and those of others that we read."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hkrunner.boards.runs import event_files
from hkrunner.boards.runs.curve_names import common_names, curve_name
from hkrunner.boards.runs.event_files import EventWriter, Point, read_file, read_last_scalars, read_scalars
from hkrunner.boards.runs.folders import measure
from hkrunner.boards.runs.resource_series import CPU, LIMIT, MEMORY, PROCESSES, PROGRESS, ResourceSeries
from hkrunner.boards.runs.task_metrics import _bytes_of_metrics
from hkrunner.sandbox.linux.remove_tree import remove_tree
from hypothesis import given
from hypothesis import strategies as st


def only_file(folder: Path) -> Path:
    (path,) = (path for path in folder.rglob("*") if path.is_file())
    return path


def test_tensorboard_reads_back_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = EventWriter(tmp_path)
    written = [(-3, -1.5), (0, 0.0), (1, 1e-30), (2, 1e300), (2**40, math.inf)]
    for step, value in written:
        writer.add({"loss": value, "שגיאה/x y": value}, step=step, at_s=1000.5 + step)
    writer.close()
    accumulator = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    accumulator.Reload()
    for tag in ("loss", "שגיאה/x y"):
        events = accumulator.Scalars(tag)
        assert [event.step for event in events] == [step for step, _ in written]
        assert [event.wall_time for event in events] == [1000.5 + step for step, _ in written]
        assert [event.value for event in events] == pytest.approx([-1.5, 0.0, 1e-30, math.inf, math.inf])


def test_what_tensorboard_writes_is_read_back(tmp_path: Path) -> None:
    from tensorboard.summary import Writer

    writer = Writer(str(tmp_path / "train"))
    for step in range(5):
        writer.add_scalar("loss", 1 / (step + 1), step)
    writer.close()
    points = read_scalars(tmp_path)["train"]["loss"]
    assert [(point.step, point.value) for point in points] == [
        (step, pytest.approx(1 / (step + 1))) for step in range(5)
    ]


def test_both_ways_of_storing_a_scalar_are_read(tmp_path: Path) -> None:
    """torch and tensorboardX write simple values, tf.summary tensors of several kinds."""
    import numpy
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    writer = EventFileWriter(str(tmp_path))
    values = [Summary.Value(tag="simple", simple_value=0.5)]
    for name in ("float32", "float64", "int32", "int64"):
        values.append(Summary.Value(tag=name, tensor=make_tensor_proto(numpy.array(3, dtype=name))))
    values.append(Summary.Value(tag="double_val", tensor=TensorProto(dtype=2, double_val=[3.0])))
    values.append(Summary.Value(tag="vector", tensor=make_tensor_proto([1.0, 2.0])))
    values.append(Summary.Value(tag="text", tensor=make_tensor_proto("words")))
    writer.add_event(Event(wall_time=7.0, step=4, summary=Summary(value=values)))
    writer.close()
    series = read_scalars(tmp_path)["."]
    assert series.pop("simple") == [Point(7.0, 4, 0.5)]
    assert series == {
        tag: [Point(7.0, 4, 3.0)] for tag in ("float32", "float64", "int32", "int64", "double_val")
    }


def test_a_killed_writer_loses_nothing(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from hkrunner.boards.runs.event_files import EventWriter\n"
        "writer = EventWriter(Path(sys.argv[1]))\n"
        "for step in range(1000): writer.add({'loss': step}, step=step, at_s=1.0)\n"
        "os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(read_scalars(tmp_path)["."]["loss"]) == 1000


def test_a_cut_file_gives_all_that_is_whole(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path)
    for step in range(10):
        writer.add({"loss": step}, step=step, at_s=1.0)
    writer.close()
    path = only_file(tmp_path)
    os.truncate(path, path.stat().st_size - 5)
    assert [point.step for _, point in read_file(path)] == list(range(9))


@given(st.binary(max_size=200), st.integers(0, 400))
def test_damage_never_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    writer = EventWriter(folder)
    for step in range(5):
        writer.add({"loss": step}, step=step, at_s=1.0)
    writer.close()
    path = only_file(folder)
    data = path.read_bytes()
    path.write_bytes(data[:at] + noise + data[at + len(noise) :])
    assert all(isinstance(point.value, float) for _, point in read_file(path))


def test_a_file_that_cannot_be_read_is_an_empty_one(tmp_path: Path) -> None:
    assert list(read_file(tmp_path / "none")) == []
    assert read_scalars(tmp_path / "none") == {}


def test_no_scalars_leave_no_file(tmp_path: Path) -> None:
    EventWriter(tmp_path / "resources").close()
    ResourceSeries(tmp_path, started_at=1.0).close()
    assert list(tmp_path.iterdir()) == []


# --- resource curves


def test_the_resources_of_a_task_are_curves_beside_its_own(tmp_path: Path) -> None:
    series = ResourceSeries(tmp_path, started_at=1000.0)
    for second in range(3):
        series.sample(
            1000.0 + second,
            cpu_cores=0.5,
            memory_bytes=(100 + second) << 20,
            limit_bytes=512 << 20,
            processes=2,
        )
        series.progress(1000.0 + second, second / 2)
    series.close()
    curves = read_scalars(tmp_path)["resources"]
    assert set(curves) == {CPU, MEMORY, LIMIT, PROCESSES, PROGRESS}
    assert [point.value for point in curves[MEMORY]] == [100, 101, 102]
    assert [point.step for point in curves[MEMORY]] == [0, 1000, 2000]
    assert [point.value for point in curves[CPU]] == [0.5, 0.5, 0.5]
    assert [point.value for point in curves[PROGRESS]] == [0, 0.5, 1]


def test_an_old_task_has_fewer_points_and_keeps_its_peaks(tmp_path: Path) -> None:
    series = ResourceSeries(tmp_path, started_at=0.0)
    peak_at = 43_210.0
    for tenth in range(0, 864_000, 10):
        at_s = tenth / 10
        series.sample(at_s, memory_bytes=(900 if at_s == peak_at else 100) << 20)
    series.close()
    points = read_scalars(tmp_path)["resources"][MEMORY]
    assert 4_000 < len(points) < 12_000
    assert max(point.value for point in points) == 900
    assert only_file(tmp_path).stat().st_size < 1 << 20


def test_what_came_last_is_kept_however_short_the_task(tmp_path: Path) -> None:
    series = ResourceSeries(tmp_path, started_at=0.0)
    series.sample(0.0, memory_bytes=1 << 20)
    series.sample(0.001, memory_bytes=7 << 20)
    series.close()
    assert [point.value for point in read_scalars(tmp_path)["resources"][MEMORY]] == [1, 7]


def test_a_curve_goes_on_when_the_clock_is_set_back(tmp_path: Path) -> None:
    series = ResourceSeries(tmp_path, started_at=7200.0)
    for at_s, mib in ((7201.0, 1), (3602.0, 2), (3603.0, 3)):
        series.sample(at_s, memory_bytes=mib << 20)
    series.close()
    assert [point.value for point in read_scalars(tmp_path)["resources"][MEMORY]] == [1, 2, 3]


def test_curves_that_cannot_be_kept_do_not_stop_a_task(tmp_path: Path) -> None:
    (tmp_path / "resources").write_text("a file")
    series = ResourceSeries(tmp_path, started_at=0.0)
    series.sample(0.0, memory_bytes=1)
    series.sample(9.0, memory_bytes=1)
    series.close()
    assert series.problem is not None and "resource curves cannot be kept" in series.problem


def test_a_linked_folder_is_read_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "volume" / "deeper")
    writer.add({"loss": 1.0}, step=1, at_s=1.0)
    writer.close()
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics").symlink_to(tmp_path / "volume")
    (tmp_path / "volume" / "circle").symlink_to(tmp_path / "volume")
    assert list(read_scalars(run)) == ["metrics/deeper"]


def test_last_values_are_those_of_all_points(tmp_path: Path) -> None:
    from tensorboard.summary import Writer

    theirs = Writer(str(tmp_path / "validation"))
    for step in range(300):  # a step and a length of two bytes
        theirs.add_scalar("loss", step / 3, step)
        theirs.add_scalar("x" * 200, -step, step)
    theirs.close()
    ours = EventWriter(tmp_path)
    ours.add({"loss": 2.0, "once": 1.0}, step=-1, at_s=1.0)
    ours.add({"loss": 1.0, "שגיאה": math.inf}, step=1 << 40, at_s=1.0)
    ours.close()
    whole = read_scalars(tmp_path)
    last = {
        (tag if run == "." else f"{run}/{tag}"): points[-1].value
        for run, series in whole.items()
        for tag, points in series.items()
    }
    assert len(last) == 5 and read_last_scalars(tmp_path) == last
    assert set(read_last_scalars(tmp_path, left_out=["validation"])) == {"loss", "once", "שגיאה"}
    # Of a damaged file what comes before the damage.
    data = only_file(tmp_path / "validation").read_bytes()
    only_file(tmp_path / "validation").write_bytes(data[: len(data) // 2] + b"\xff" * 100)
    half = read_scalars(tmp_path)["validation"]["loss"]
    assert 0 < len(half) < 300 and read_last_scalars(tmp_path)["validation/loss"] == half[-1].value


@pytest.mark.parametrize(
    "name",
    [
        "1796000000.1234567",
        "Nov30_03-44-01_myhost.localLR_0.1",
        "20261130-034401",
        "20261130T034401",
        "2026-11-30_03-44-01",
        "2026-11-30 03:44:01.123456",
        "2026-11-30T03:44",
        "20261130_0344",
    ],
)
def test_a_folder_that_is_named_by_a_time_is_no_part_of_a_curves_name(name: str) -> None:
    assert curve_name(f"logs/{name}/train", "a/loss") == "logs/train/a/loss"
    assert curve_name(".", "loss") == "loss" and curve_name(f"x{name}", "loss") == f"x{name}/loss"


def test_a_folder_that_one_task_alone_has_is_no_part_of_the_names_that_tasks_share() -> None:
    assert common_names([["run-1/a", "x/b"], ["run-2/a", "run-2/c"], ["a"]]) == [
        {"run-1/a": "a", "x/b": "x/b"},
        {"run-2/a": "a", "run-2/c": "run-2/c"},
        {"a": "a"},
    ]
    # Nothing is mixed up: two curves of one task, and folders that each task has.
    apart = [["r1/t1/a", "r1/t2/a", "r1/b"], ["r2/t1/a", "r2/t2/a", "r2/b"]]
    assert [list(one.values()) for one in common_names(apart)] == [["t1/a", "t2/a", "b"]] * 2
    alone = [["r1/t1/a", "r1/t2/a"], ["r2/t3/a"]]
    assert [list(one.values()) for one in common_names(alone)] == alone


def test_a_folder_that_is_named_by_a_time_is_no_part_of_a_metrics_name(tmp_path: Path) -> None:
    for number, folder in enumerate(
        (".", "1796000000.1234567", "val/20261130-034401", "1.5", "1796000000.x")
    ):
        with contextlib.closing(EventWriter(tmp_path / folder)) as writer:
            writer.add({f"m{number}": float(number)}, step=1, at_s=1.0)
    assert read_last_scalars(tmp_path) == {
        "m0": 0.0,
        "m1": 1.0,
        "val/m2": 2.0,
        "1.5/m3": 3.0,
        "1796000000.x/m4": 4.0,
    }


def test_pipes_and_folders_of_any_depth_among_the_metrics_hold_up_nothing(tmp_path: Path) -> None:
    with contextlib.closing(EventWriter(tmp_path)) as writer:
        writer.add({"loss": 1.0}, step=1, at_s=1.0)
    os.mkfifo(tmp_path / "events.out.tfevents.0000000001.pipe")
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1500):  # deeper than a function may call itself, and than a path may be long
            os.mkdir("deep-one")
            os.chdir("deep-one")
    finally:
        os.chdir(here)
    assert read_last_scalars(tmp_path) == {"loss": 1.0}
    assert list(read_scalars(tmp_path)) == ["."]
    size, event_files = measure(tmp_path)
    assert size > 0 and event_files == 2
    assert _bytes_of_metrics(str(tmp_path)) > 0
    assert remove_tree(str(tmp_path / "deep-one")) is None and not (tmp_path / "deep-one").exists()


def test_what_cannot_be_removed_is_told() -> None:
    assert remove_tree("/proc/self/nowhere") is None
    error = remove_tree("/proc/self/attr")
    assert isinstance(error, OSError) and os.path.isdir("/proc/self/attr")


def test_a_link_to_a_folder_above_and_a_record_of_any_length_hold_up_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for folder in (run, tmp_path / "other"):
        writer = EventWriter(folder)
        writer.add({"loss": 1.0}, step=1, at_s=1.0)
        writer.close()
    for name, target in {"root": "/", "above": "..", "here": ".", "itself": "itself"}.items():
        (run / name).symlink_to(target)
    for name, length, size in (("holes", 1 << 33, 1 << 34), ("long", (1 << 64) - 1, 100)):
        with (run / f"events.out.tfevents.1.{name}").open("wb") as file:
            head = struct.pack("<Q", length)
            file.write(head + event_files._masked_crc(head))
            file.truncate(size)
    assert read_last_scalars(run) == {"loss": 1.0}
    assert list(read_scalars(run)) == ["."]
