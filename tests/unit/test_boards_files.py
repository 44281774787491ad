"""Safe names, whole files, and who wrote them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hkrunner.boards.board_record import Board, BoardRecords, BoardStatus
from hkrunner.boards.runs.files import (
    ProcessIdentity,
    is_part,
    original_text,
    own_identity,
    read_json,
    replace_file,
    replacement,
    safe_part,
    to_json,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("7f3a", "7f3a"),
        ("11-23-2026, 6:55:01 PM", "11-23-2026, 6:55:01 PM"),
        ("שלום", "שלום"),
        ("", "%"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("...", "..."),
        ("a/b", "a%2Fb"),
        ("../../etc/passwd", "..%2F..%2Fetc%2Fpasswd"),
        ("a\0b", "a%00b"),
        ("50%", "50%25"),
        ("line\nbreak\x1b[31m", "line%0Abreak%1B[31m"),
        ("\ud800", "%ED%A0%80"),
    ],
)
def test_a_name_from_the_wire_becomes_one_path_part(text: str, part: str) -> None:
    assert safe_part(text) == part
    assert original_text(part) == text


@given(st.lists(st.text(alphabet=st.characters(), max_size=300), min_size=2, max_size=2, unique=True))
def test_no_two_names_share_a_part_and_every_part_can_be_a_file(texts: list[str]) -> None:
    parts = [safe_part(text) for text in texts]
    assert parts[0] != parts[1]
    for part in parts:
        assert 0 < len(os.fsencode(part)) <= 255
        assert "/" not in part and "\0" not in part and part not in (".", "..")
        assert is_part(part)


@pytest.mark.parametrize("part", ["%FF", "%C3", "100%\udcff"])
def test_a_folder_of_another_program_is_called_as_it_is(part: str) -> None:
    assert original_text(part) == part


def test_a_long_name_is_cut_and_stays_itself() -> None:
    one, other = "ש" * 200, "ש" * 201
    assert safe_part(one) != safe_part(other)
    assert len(safe_part(one).encode()) <= 255


def test_a_replaced_file_is_never_half_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    replace_file(str(path), to_json({"n": 1}))
    with pytest.raises(TypeError):
        replace_file(str(path), "not bytes")  # type: ignore[arg-type]
    assert read_json(str(path)) == {"n": 1}


def test_a_failed_replacement_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        replace_file(str(tmp_path / "folder"), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_board_that_is_stopped_in_the_middle_of_a_report_leaves_no_file(tmp_path: Path) -> None:
    records = BoardRecords(tmp_path)
    records.make_folder()
    board = Board("all", "reference", "all", str(tmp_path), BoardStatus.RUNNING, 0)
    records.save(board)
    with pytest.raises(FileNotFoundError), replacement(str(records.path("reference"))):
        records.forget(board)
    assert list(records.folder.iterdir()) == []


def test_json_survives_what_json_lacks(tmp_path: Path) -> None:
    replace_file(str(tmp_path / "a"), to_json({"path": tmp_path, "id": "\ud800"}))
    assert read_json(str(tmp_path / "a")) == {"path": str(tmp_path), "id": "\ud800"}


def test_an_identity_lives_as_long_as_its_process_and_no_longer() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(process.pid)
    assert identity is not None and identity.is_alive() and identity.is_here_and_alive()
    assert ProcessIdentity.from_dict(identity.to_dict()) == identity
    process.communicate()
    assert not identity.is_alive()
    assert ProcessIdentity.of(process.pid) is None


def test_the_same_pid_with_another_start_is_another_process() -> None:
    mine = own_identity()
    assert mine.is_here_and_alive()
    assert not ProcessIdentity(mine.pid, mine.started + "0", mine.host).is_alive()


def test_a_process_of_another_host_counts_as_alive_and_is_never_signalled() -> None:
    mine = own_identity()
    elsewhere = ProcessIdentity(mine.pid, mine.started, "another-host")
    assert elsewhere.is_alive() and not elsewhere.is_here_and_alive()


@pytest.mark.parametrize("value", [None, [], {}, {"pid": "1", "started": "a", "host": "b"}, {"pid": -1}])
def test_what_is_not_an_identity_is_none(value: object) -> None:
    assert ProcessIdentity.from_dict(value) is None
