"""With few open files, processes or little memory, hkrunner works the same, or says in one sentence which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.child_process import ECHO
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


def test_values_that_need_a_descriptor_of_their_own_pass_in_process_or_the_run_does_not_begin(
    tmp_path: Path,
) -> None:
    """A descriptor without room is lost: with 17 a run waited for ever, with 18 it blamed the code."""
    (tmp_path / "echo.py").write_text(ECHO)
    (tmp_path / "large.json").write_text(json.dumps("y" * 1_000_000))
    args = ("-e", "echo.py", "-i", "@large.json", "--no-state", "--in-process")
    for count in (14, 16, 18, 20, 22, 24, 26, 28):
        ended = run_in(tmp_path, f"ulimit -n {count};", *args)
        if ended.status == 0:
            assert len(ended.stdout) > 1_000_000
        else:
            one_sentence(ended, "oo many open files")
            assert ended.status == 1 and "ulimit -n 64" in ended.stderr
    assert ended.status == 0, ended.stderr


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
