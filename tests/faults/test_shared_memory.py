"""Memory that no process's own counter shows: it counts, it is named, and the run's is removed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.local import error_of, run_tasks

pytestmark = pytest.mark.alone

MI = 1 << 20
LIMIT = ("--mem", "256Mi")
SYSV = Path("/proc/sysvipc/shm")


def segments() -> set[int]:
    return {int(line.split()[1]) for line in SYSV.read_text().splitlines()[1:]}


def test_files_in_dev_shm_count_are_named_and_removed(tmp_path: Path) -> None:
    run = run_tasks("limits_shared_memory.py", ["file", 600], ["behave"], cwd=tmp_path, args=LIMIT)
    code, message = error_of(run.tasks[0])
    assert code == "SHARED_MEMORY_LIMIT"
    assert re.search(r"used 2\d\d MiB of 256 MiB allowed \(--mem\)", message)
    assert re.search(r"2\d\d MiB of it shared memory: /dev/shm/limits_test_\d+ 2\d\d MiB; ", message)
    assert re.search(
        r"^shared memory left by the algorithm was removed: /dev/shm/limits_test_\d+", message, re.M
    )
    assert (run.status, run.tasks[0]["reason"], run.outputs[1]) == (137, "MemoryLimit", "served")
    assert not list(Path("/dev/shm").glob("limits_test_*"))


@pytest.mark.parametrize(("how", "code"), [("memfd", "SHARED_MEMORY_LIMIT"), ("map", "OUT_OF_MEMORY")])
def test_memory_files_and_shared_maps_count(how: str, code: str, tmp_path: Path) -> None:
    run = run_tasks("limits_shared_memory.py", [how, 600], ["behave"], cwd=tmp_path, args=LIMIT)
    found, message = error_of(run.tasks[0])
    assert found == code
    used = re.search(r"used (\d+) MiB of 256 MiB allowed", message)
    assert used is not None and int(used[1]) >= 256, message
    # Seen within a tenth of a second, in which 2 GB/s come to 200 MiB. A shared map is told from pages of a
    # file by the exact books only; the kernel took 57 to 175 ms for them in one run of 20, as long as the map
    # was being filled: no bound holds there (docs/reference/limits.md).
    assert how == "map" or int(used[1]) < 456, message
    assert ("limits_test " in message) == (how == "memfd")
    assert (run.status, run.outputs[1]) == (137, "served")


@pytest.mark.parametrize("how", ["file", "memfd", "map"])
def test_shared_memory_below_the_limit_is_no_error(how: str, tmp_path: Path) -> None:
    run = run_tasks("limits_shared_memory.py", [how, 100], cwd=tmp_path, args=LIMIT)
    assert (run.status, run.outputs) == (0, ["nobody minded"])
    assert 100 * MI <= run.tasks[0]["peakMemBytes"] < 140 * MI


def test_what_a_healthy_run_leaves_is_removed_and_told(tmp_path: Path) -> None:
    before = segments()
    run = run_tasks("limits_leaves_shared_memory.py", ["long"], cwd=tmp_path, args=LIMIT)
    assert run.status == 0
    name, segment = run.outputs[0]
    removed = next(line for line in run.stderr.splitlines() if "shared memory left" in line)
    assert f"/dev/shm/{name} (3 MiB)" in removed and f"shmid {segment} (2 MiB)" in removed
    assert not Path("/dev/shm", name).exists() and segments() <= before


def test_what_is_not_proven_to_be_the_runs_is_told_and_kept(tmp_path: Path) -> None:
    run = run_tasks("limits_leaves_shared_memory.py", ["brief"], cwd=tmp_path, args=LIMIT)
    name, _ = run.outputs[0]
    block = Path("/dev/shm", name)
    if block.exists():
        block.unlink()
        assert f"may be the algorithm's was kept: /dev/shm/{name} (3 MiB)" in run.stderr
    else:  # it was seen in time after all
        assert f"/dev/shm/{name} (3 MiB)" in run.stderr
