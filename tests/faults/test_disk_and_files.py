"""Open files, written bytes and the size of a file."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from support.local import ALGORITHMS, error_of, run_tasks


@pytest.mark.parametrize("allowed", [16, 100, 1000])
def test_open_files_run_into_their_limit_inside_the_algorithm(allowed: int, tmp_path: Path) -> None:
    args = ("--files", str(allowed))
    run = run_tasks("limits_opens_files.py", ["misbehave"], ["behave"], cwd=tmp_path, args=args)
    code, message = error_of(run.tasks[0])
    assert code == "TOO_MANY_FILES"
    assert "OSError: [Errno 24] Too many open files" in message
    assert f"; {allowed} open files are allowed (--files)" in message
    assert (run.status, run.outputs[1]) == (1, "served")
    assert run.tasks[0]["protection"]["line"] == f"limits: files {allowed} by rlimit"


def own_copy(folder: Path) -> Path:
    """The working folder is that of the code: let it be one that may be filled."""
    return Path(shutil.copy(ALGORITHMS / "limits_fills_the_disk.py", folder))


@pytest.mark.parametrize("how", ["files", "file"])
def test_what_is_written_is_measured(how: str, tmp_path: Path) -> None:
    (tmp_path / "there-before").write_bytes(bytes(40 << 20))
    args = ("--disk", "30Mi")
    run = run_tasks(own_copy(tmp_path), [how, 400], ["behave"], cwd=tmp_path, args=args)
    code, message = error_of(run.tasks[0])
    assert code == "DISK_LIMIT"
    found = re.search(r"wrote ([\d.]+) MiB of 30 MiB allowed \(--disk\) after [\d.]+ s; write less", message)
    # 1 MiB comes every 2 ms and more; a look every 50 ms, and later on a busy machine.
    assert found is not None and 30 <= float(found[1]) < 400, message
    assert (run.status, run.tasks[0]["reason"], run.outputs[1]) == (1, "Crashed", "served")


def test_what_was_there_before_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "there-before").write_bytes(bytes(40 << 20))
    args = ("--disk", "30Mi")
    run = run_tasks(own_copy(tmp_path), ["files", 20], cwd=tmp_path, args=args)
    assert (run.status, run.outputs) == (0, ["nobody minded"])
