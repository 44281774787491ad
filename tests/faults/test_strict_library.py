"""Code that is not trusted in hkrunner.Pool, in hkrunner.run, and in the process that waits for --spare."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from support.local import ALGORITHMS
from support.programs import HKRUNNER, run
from support.sandboxes import BEST, POSSIBLE, check_nothing_is_left, needs_sandbox
from support.weaker_machines import machine_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    for name in ("strict_opens.py", "strict_is_refused.py"):
        shutil.copy(ALGORITHMS / name, tmp_path / "code")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret").write_text("secret")
    return tmp_path


def run_script(folder: Path, machine: str, least: str) -> dict[str, Any]:
    """Run the script where `machine` is the strongest level, and accept `least`."""
    arguments = (folder / "elsewhere/secret", "strict_opens.py", least)
    script: list[str | Path] = [sys.executable, ALGORITHMS / "strict_pool.py", *arguments]
    command = machine_for(machine, script) if "full" in POSSIBLE else script
    ended = run(command, cwd=folder / "code", env={"TMPDIR": "/tmp"})
    assert ended.status == 0, ended
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("level", ["full", "landlock"])
def test_a_pool_and_a_run_hold_code_that_is_not_trusted(folder: Path, level: str) -> None:
    if level not in POSSIBLE:
        found = run_script(folder, level, level)
        assert "SANDBOX_UNAVAILABLE" in found["refused"] and "SANDBOX_UNAVAILABLE" in found["run refused"]
        return
    found = run_script(folder, level, level)
    secret = found.pop("secret")
    assert ("PermissionError" if level == "landlock" else "FileNotFoundError") in secret
    assert f"--read {folder}/elsewhere/secret opens it" in secret
    # Which of the two depends on whether the process or the warden notices first.
    assert found.pop("grow") in ("OUT_OF_MEMORY", "MEMORY_ERROR")
    assert found == {
        "large": {"bytes": 3_000_000, "seccomp": True},
        "crash": "EXITED",
        "many": True,
        "opened": [[True, False]],
        "run": [[[False, False]]],
    }
    check_nothing_is_left()


def test_a_pool_and_a_run_start_nothing_that_the_machine_cannot_hold(folder: Path) -> None:
    if "full" not in POSSIBLE:
        return  # the test before this one has shown it
    found = run_script(folder, "landlock", "ns")
    assert set(found) == {"refused", "run refused"}
    for text in found.values():
        assert "SANDBOX_UNAVAILABLE" in text and "The level landlock would start" in text


@needs_sandbox
def test_a_spare_process_is_held_and_takes_over_when_the_one_before_it_has_crashed(folder: Path) -> None:
    command = [
        HKRUNNER,
        "code/strict_is_refused.py",
        "--sandbox",
        "strict",
        "--sandbox-level",
        BEST,
        "--spare",
    ]
    inputs = [word for what in ("behave", "signal", "read elsewhere") for word in ("-i", json.dumps(what))]
    ended = run([*command, "--json", *inputs], cwd=folder, env={"TMPDIR": "/tmp"})
    served, crashed, refused = map(json.loads, ended.stdout.splitlines())
    assert served["output"] == "served" and crashed["error"]["code"] == "KILLED_BY_SIGNAL"
    assert "--read /elsewhere/file opens it" in refused["error"]["message"]
    assert {one["protection"]["sandbox"] for one in (served, crashed, refused)} == {BEST}
    assert not list((folder / ".hkrunner/boxes").iterdir())
    check_nothing_is_left()
