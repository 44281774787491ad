"""What is taken into a task's record of the files that an isolated child has left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hkrunner.boards.runs.childs_files import take_file


def test_a_value_is_copied_so_that_no_descriptor_leads_to_the_record(tmp_path: Path) -> None:
    source, path = tmp_path / "of-the-child", tmp_path / "output.json"
    source.write_text('"text"')
    with source.open("r+") as kept:
        assert take_file(str(source), str(path), most_bytes=6)
        kept.write('"FORGED"')
    assert path.read_text() == '"text"'
    assert os.listdir(tmp_path) == ["output.json"]


def _links(source: Path) -> None:
    source.symlink_to("/etc/passwd")


def _has_two_names(source: Path) -> None:
    source.write_text("1")
    os.link(source, source.parent / "other")


def _is_large(source: Path) -> None:
    with source.open("w") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    "leave", [_links, _has_two_names, _is_large, os.mkfifo, os.mkdir], ids=lambda one: one.__name__.strip("_")
)
def test_what_is_no_value_of_the_childs_is_not_taken(leave: Callable[[Path], None], tmp_path: Path) -> None:
    source, path = tmp_path / "of-the-child", tmp_path / "output.json"
    leave(source)
    assert not take_file(str(source), str(path), most_bytes=1 << 20)
    assert not path.exists()
    assert source.is_dir() or not os.path.lexists(source)  # the next task does not get it
