"""What a run has written, measured in small steps."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hkrunner.sandbox.usage import disk_usage
from hkrunner.sandbox.usage.disk_usage import DiskMeter

KI = 1024


def measured(meter: DiskMeter, now: float = 0.0) -> int:
    """Take steps until a whole pass is done."""
    for step in range(1000):
        meter.next_at = 0.0
        meter.look(now + step)
        if meter._pass is None:
            return meter.growth_bytes
    raise AssertionError("a pass that never ends")


def write(path: Path, kib: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(kib * KI))


def test_growth_is_what_came_after_the_first_pass(tmp_path: Path) -> None:
    write(tmp_path / "old", 512)
    meter = DiskMeter([str(tmp_path)])
    meter.measure_before()
    assert measured(meter) == 0
    write(tmp_path / "deep" / "new", 256)
    assert 256 * KI <= measured(meter) < 300 * KI


def test_what_is_removed_makes_room_again(tmp_path: Path) -> None:
    meter = DiskMeter([str(tmp_path)])
    meter.measure_before()
    write(tmp_path / "new", 256)
    assert measured(meter) >= 256 * KI
    (tmp_path / "new").unlink()
    measured(meter)
    assert measured(meter) < 64 * KI


def test_a_folder_inside_another_and_a_file_with_two_names_count_once(tmp_path: Path) -> None:
    meter = DiskMeter([str(tmp_path), str(tmp_path / "inner")])
    meter.measure_before()
    write(tmp_path / "inner" / "one", 256)
    os.link(tmp_path / "inner" / "one", tmp_path / "other name")
    os.symlink("/usr", tmp_path / "elsewhere")
    assert measured(meter) < 300 * KI


def test_what_an_unfinished_pass_has_found_counts_already(tmp_path: Path) -> None:
    meter = DiskMeter([str(tmp_path)])
    meter.measure_before()
    for number in range(disk_usage.STEP_ENTRIES + 100):
        (tmp_path / f"{number}").write_bytes(b"x" * 100)
    meter.look(0.0)
    assert meter._pass is not None and meter.growth_bytes > 0
    meter.close()


def test_small_folders_are_measured_often_and_large_ones_seldom(tmp_path: Path) -> None:
    times = iter([0.0, 0.0001, 1.0, 1.02])
    meter = DiskMeter([str(tmp_path)], clock=lambda: next(times))
    meter.look(0.0)
    assert meter.next_at == disk_usage.EVERY_S
    meter.look(1.0)
    assert 1.0 + 0.02 / disk_usage.SHARE + 1e-9 >= meter.next_at > 3.0


def test_a_folder_that_vanishes_counts_as_empty(tmp_path: Path) -> None:
    meter = DiskMeter([str(tmp_path / "never there")])
    meter.measure_before()
    assert measured(meter) == 0


def test_a_folder_that_fails_while_it_is_read_counts_as_far_as_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "new", 256)
    scandir = os.scandir

    @contextlib.contextmanager
    def stale(path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        def entries() -> Iterator[os.DirEntry[str]]:
            with scandir(path) as found:
                yield from found
            raise OSError(errno.ESTALE, "Stale file handle", path)

        yield entries()

    meter = DiskMeter([str(tmp_path)])
    meter._before = 0
    monkeypatch.setattr(os, "scandir", stale)
    assert measured(meter) >= 256 * KI


def found_at(folder: Path, *, limit: int | None) -> float:
    """Return when 2 MiB are found that come after the first step; each takes 1 ms, and nobody else writes."""
    ticks = itertools.count()
    free = 1 << 30
    meter = DiskMeter([str(folder)], limit_bytes=limit, clock=lambda: next(ticks) / 1000)
    meter._free_bytes = lambda: free  # type: ignore[method-assign]
    meter.measure_before()
    meter.look(0.0)
    with (folder / f"large {limit}").open("wb") as file:
        file.write(os.urandom(2 << 20))
        os.fsync(file)  # else its blocks are only promised, on some file systems
    free -= 2 << 20
    now = 0.0
    while meter.growth_bytes < 2 << 20:
        now = meter.next_at
        meter.look(now)
    meter.close()
    return now


def test_measuring_is_faster_when_much_of_the_limit_may_have_been_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_usage, "STEP_ENTRIES", 50)
    for number in range(400):
        (tmp_path / f"{number}").touch()
    assert found_at(tmp_path, limit=1 << 20) < found_at(tmp_path, limit=None) / 3
