"""Whether the owner of a record lives, where containers with one host name share a state folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hkrunner.boards.board_record import Board, BoardRecords, BoardStatus
from hkrunner.boards.errors import BoardError
from hkrunner.boards.manager import BoardManager
from hkrunner.boards.runs import files, owner_lock
from hkrunner.boards.runs.files import own_identity


def test_an_owner_in_another_pid_namespace_lives_as_long_as_it_holds_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, mine = str(tmp_path), own_identity()
    owner_lock.hold(root)
    owner_lock.hold(root)  # by a second store of this process
    (lock,) = (tmp_path / "owners").iterdir()
    (tmp_path / "owners" / "1-2-boot-3.lock").touch()  # left by a process that was killed
    monkeypatch.setattr(files, "process_started", lambda pid: None)
    assert not owner_lock.may_live(mine, root), "it would be seen here"
    monkeypatch.setattr(files, "_namespace", lambda: "1")
    assert owner_lock.may_live(mine, root)
    owner_lock.release(root)
    assert owner_lock.may_live(mine, root)
    owner_lock.release(root)
    assert not lock.exists() and not owner_lock.may_live(mine, root)
    lock.touch()  # as after a kill: the kernel has released the lock
    assert not owner_lock.may_live(mine, root)
    assert owner_lock.may_live(mine._replace(host="another-host"), root)
    owner_lock.hold(root)
    assert len(os.listdir(tmp_path / "owners")) == 1, "what killed processes have left is removed"
    owner_lock.release(root)


def test_the_lock_is_made_though_a_file_of_another_user_cannot_be_removed_and_again_with_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, mine = str(tmp_path / "state"), own_identity()
    owners = tmp_path / "state" / "owners"
    owners.mkdir(parents=True)
    (owners / "1-2-boot-3.lock").mkdir()  # as little to be opened for writing as another user's file
    owner_lock.hold(root)
    monkeypatch.setattr(files, "_namespace", lambda: "1")
    monkeypatch.setattr(files, "process_started", lambda pid: None)
    assert owner_lock.may_live(mine, root)
    shutil.rmtree(owners)
    owner_lock.take_again(root)
    assert owner_lock.may_live(mine, root)
    owner_lock.take_again(root)
    owner_lock.release(root)
    assert not os.listdir(owners)


def test_a_board_in_another_pid_namespace_lives_as_long_as_it_holds_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, manager, process = BoardRecords(tmp_path), BoardManager(tmp_path), own_identity()
    board = Board("a", "reference", "task", str(tmp_path), BoardStatus.RUNNING, 0, process=process)
    records.make_folder()
    records.save(board)
    view = records.view_folder(process)
    view.mkdir()
    (records.folder / "view-host-1").mkdir()  # of an older version
    owner_lock.hold(str(tmp_path))
    monkeypatch.setattr(files, "process_started", lambda pid: None)
    monkeypatch.setattr(files, "_namespace", lambda: "1")
    records.remove_dead_views()
    assert [one.status for one in manager.boards()] == [BoardStatus.RUNNING] and view.is_dir()
    with pytest.raises(BoardError, match="board a runs in another container"):
        manager.stop("a")
    owner_lock.release(str(tmp_path))
    assert [one.status for one in records.all()] == [BoardStatus.FAILED]
    records.remove_dead_views()
    assert not view.exists()
    view.mkdir()
    odd = records.view_folder(process._replace(started="/../.."))
    assert odd.parent == records.folder, "a damaged record names no other folder"
    manager.stop("a")
    assert not view.exists() and records.all() == []
