"""The files in which the child keeps a task's input and result."""

from __future__ import annotations

import os
from pathlib import Path

from hkrunner.sandbox.child.result_files import ResultFiles, result_json


def test_a_result_is_kept_whole(tmp_path: Path) -> None:
    problems: list[str] = []
    files = ResultFiles(str(tmp_path), None, problems.append)
    files.write_input(b"[1]")
    files.prepare_output()
    files.write_output(b"2")
    files.close()
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {
        "input.json": b"[1]",
        "output.json": b"2",
    }
    assert problems == []


def test_nothing_stays_of_a_result_that_was_not_written(tmp_path: Path) -> None:
    """Also where the code has closed the file's descriptor, as daemons close all that they inherit."""
    for is_closed in (False, True):
        files = ResultFiles(str(tmp_path), None, [].append)
        files.prepare_output()
        if is_closed:
            assert files._output is not None
            os.close(files._output[0])
        files.close()
        assert list(tmp_path.iterdir()) == [], is_closed


def test_a_folder_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    problems: list[str] = []
    files = ResultFiles(str(tmp_path / "gone"), None, problems.append)
    files.write_input(b"[1]")
    files.prepare_output()
    files.write_output(b"2")
    files.close()
    assert problems == [
        "input.json was not kept: No such file or directory",
        "output.json was not kept: No such file or directory",
    ]


def test_the_result_is_found_in_the_message_for_the_worker() -> None:
    assert result_json([b'{"command":"done","data":[1,2]}']) == b"[1,2]"
    assert result_json([b'{"command":"done"}']) is None
