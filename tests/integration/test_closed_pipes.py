"""`hkrunner … | head`: once nobody reads what is printed, it ends quietly, as a program that SIGPIPE ends."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.local import ALGORITHMS
from support.programs import HKRUNNER, RUN_S, environment, run_hkrunner

ADDS = ALGORITHMS / "adds.py"


def into_closed_pipe(*args: str | Path, cwd: Path, with_stderr: bool = False) -> tuple[int, str | None]:
    """Return the status of hkrunner, and what it says on stderr unless that is closed as well."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [HKRUNNER, *args],
            cwd=cwd,
            env=environment({}),
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing if with_stderr else subprocess.PIPE,
            text=True,
            timeout=RUN_S,
            check=False,
        )
    finally:
        os.close(writing)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "runs --help",
        "runs ls",
        "runs ls -j",
        "runs show t1",
        "runs show t1 -j",
        "runs logs t1",
        "explain",
        "completion bash",
        "--version",
    ],
)
def test_a_command_whose_reader_has_gone_ends_quietly(words: str, tmp_path: Path) -> None:
    (tmp_path / "prints.py").write_text("def start(args, api):\n    print('one line')\n")
    assert run_hkrunner("-e", "prints.py", "-i", "1", cwd=tmp_path).status == 0
    assert into_closed_pipe(*words.split(), cwd=tmp_path) == (141, "")


def test_a_run_whose_reader_has_gone_has_the_same_status(tmp_path: Path) -> None:
    assert into_closed_pipe("-q", "-e", ADDS, "-i", "1", "--no-state", cwd=tmp_path) == (141, "")


def test_bad_usage_keeps_its_status_where_nobody_reads_the_message(tmp_path: Path) -> None:
    assert into_closed_pipe("--nonsense", cwd=tmp_path, with_stderr=True) == (2, None)
