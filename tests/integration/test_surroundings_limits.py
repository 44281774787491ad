"""With few open files, processes or little memory, hkrunner works the same, or says in one sentence which."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.local import ALGORITHMS
from support.programs import HKRUNNER, run
from support.surroundings import one_sentence, run_in
from support.users import bounded_command, give_to_bounded

ADDS = ALGORITHMS / "adds.py"


def test_few_open_files_make_no_difference_or_are_reported_in_one_sentence(tmp_path: Path) -> None:
    for count in (6, 9, 12, 15):
        ended = run_in(tmp_path, f"ulimit -n {count};", "-e", ADDS, "-i", "1", "--no-state")
        one_sentence(ended, "oo many open files")
        assert ended.status in (1, 4) and "ulimit -n 64" in ended.stderr
    ended = run_in(tmp_path, "ulimit -n 32;", "-e", ADDS, "-i", "1", "--no-state")
    assert (ended.status, ended.stdout) == (0, "1\n"), ended.stderr


@pytest.mark.parametrize("count", range(9, 17))
def test_few_open_files_are_reported_in_one_sentence_in_process_too(count: int, tmp_path: Path) -> None:
    """With 15, the connection of the run to itself could not be accepted: it waited for ever."""
    args = ("-e", ADDS, "-i", "1", "--no-state", "--in-process")
    ended = run_in(tmp_path, f"ulimit -n {count};", *args)
    if ended.status == 0:
        assert ended.stdout == "1\n"
        return
    one_sentence(ended, "oo many open files")
    assert "ulimit -n 64" in ended.stderr


@pytest.mark.parametrize("option", ["-v 30000", "-v 20000", "-d 20000", "-d 15000", "-d 12000", "-d 8000"])
def test_too_little_memory_for_hkrunner_itself_is_reported_in_one_sentence(
    option: str, tmp_path: Path
) -> None:
    ended = run_in(tmp_path, f"ulimit {option};", "-e", ADDS, "-i", "1", "--no-state")
    assert ended.status in (1, 4, 137) and "Traceback" not in ended.stderr, ended.stderr
    assert f"ulimit {option[:2]}" in ended.stderr, ended.stderr


@pytest.mark.parametrize("option", ["-v 35000", "-d 20000"])
def test_too_little_memory_is_reported_in_one_sentence_in_process_too(option: str, tmp_path: Path) -> None:
    ended = run_in(tmp_path, f"ulimit {option};", "-e", ADDS, "-i", "1", "--no-state", "--in-process")
    assert ended.status == 1
    one_sentence(ended, f"ulimit {option[:2]}")


@pytest.mark.parametrize("tasks", [0, 1, 2, 3])
def test_few_processes_are_reported_in_one_sentence(tasks: int, tmp_path: Path) -> None:
    give_to_bounded(tmp_path)
    command = bounded_command([HKRUNNER, "-e", ADDS, "-i", "1", "--no-state"], tasks=tasks)
    ended = run(command, cwd=tmp_path)
    if tasks == 3 and ended.status == 0:  # the thread that connects had ended before the third process began
        assert ended.stdout == "1\n"
        return
    assert ended.status in (1, 4)
    assert "Traceback" not in ended.stderr and "ulimit -u" in ended.stderr, ended.stderr
