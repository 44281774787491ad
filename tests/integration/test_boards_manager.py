"""The lives of boards: started once, found and stopped from anywhere, never left behind."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hkrunner.boards.board_record import Board, BoardStatus, Readiness
from hkrunner.boards.errors import BoardError, NotFound
from hkrunner.boards.manager import BoardManager
from hkrunner.boards.runs.files import ProcessIdentity, own_identity
from hkrunner.boards.targets import all_target, node_target, task_target
from support.boards import BOARD_DEADLINE_S, add_run, boards_of_another_host, holds_none, runs_of
from support.waiting import wait_until

Make = Callable[..., BoardManager]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_run(tmp_path / "state", "t1")
    return tmp_path / "state"


@pytest.fixture
def make(root: Path) -> Iterator[Make]:
    made = []

    def make(*, attached: bool = True, idle_timeout_s: float | None = 3600) -> BoardManager:
        made.append(BoardManager(root, attached=attached, idle_timeout_s=idle_timeout_s))
        return made[-1]

    yield make
    for manager in made:
        list(manager.stop_each())
        wait_until(lambda manager=manager: holds_none(manager), what="the end of its boards")
        manager.close()


def ready(manager: BoardManager, task: str = "t1") -> Board:
    manager.start(task_target(manager.root, task))
    return manager.wait(task, Readiness.READY, deadline_s=BOARD_DEADLINE_S)


def processes(board: Board) -> list[ProcessIdentity]:
    assert board.process is not None and board.data_server is not None
    return [board.process, board.data_server]


def are_gone(board: Board) -> bool:
    return not any(process.is_alive() for process in processes(board))


def test_starting_a_board_does_not_wait(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process says nothing, for ever."""
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 600\n")
    silent.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(silent))
    manager = make()
    started = manager.start(task_target(manager.root, "t1"))
    assert (started.is_new, started.board.status) == (True, BoardStatus.PENDING)
    assert manager.poll() == []


def test_changes_of_a_board_make_a_descriptor_readable(make: Make) -> None:
    manager = make()
    manager.start(task_target(manager.root, "t1"))
    seen = []
    while not seen or seen[-1] != ("running", "ready"):
        assert select.select(manager.fds(), [], [], BOARD_DEADLINE_S)[0], f"no news after {seen}"
        seen += [(board.status.value, board.readiness.value) for board in manager.poll()]
    # One look may find several reports, and returns the last of them.
    steps = [("creating", "starting"), ("running", "listening"), ("running", "ready")]
    assert seen == sorted(seen, key=steps.index)
    assert manager.poll() == []
    manager.request_stop("t1")
    assert select.select(manager.fds(), [], [], BOARD_DEADLINE_S)[0]
    wait_until(lambda: [board.status for board in manager.poll()] == [BoardStatus.STOPPED], what="its end")
    assert manager.fds() == [] and manager.boards() == []


def test_a_running_board_is_not_started_twice(make: Make) -> None:
    manager = make()
    first = manager.start(task_target(manager.root, "t1"))
    second = manager.start(task_target(manager.root, "t1"))
    board = ready(manager)
    third = make(attached=False).start(task_target(manager.root, "t1"))
    assert (first.is_new, second.is_new, third.is_new) == (True, False, False)
    assert first.board.reference == second.board.reference == third.board.reference == board.reference
    assert len(manager.boards()) == 1


def test_two_hkrunners_that_start_at_once_start_one_board(root: Path, make: Make) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from hkrunner.boards.manager import BoardManager; from hkrunner.boards.targets import all_target\n"
        "manager = BoardManager(Path(sys.argv[1]))\n"
        "print(manager.start(all_target(manager.root)).is_new); manager.close()"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", program, root], stdout=subprocess.PIPE, text=True)
        for _ in "ab"
    ]
    assert sorted(process.communicate()[0] for process in both) == ["False\n", "True\n"]
    assert len(make().boards()) == 1


def test_several_boards_at_once_have_ports_of_their_own(make: Make) -> None:
    manager = make()
    targets = [node_target(manager.root, "mnist", f"node{number}") for number in range(3)]
    for target in targets:
        manager.start(target)
    urls = {manager.wait(target.id, deadline_s=BOARD_DEADLINE_S).url for target in targets}
    assert len(urls) == 3
    assert len(manager.boards()) == 3
    assert len(list(manager.stop_each())) == 3
    assert manager.boards() == []


def test_a_stopped_board_leaves_nothing(make: Make) -> None:
    manager = make()
    board = ready(manager)
    manager.stop("t1")
    assert are_gone(board)
    assert [path.name for path in manager.records.folder.iterdir()] == [".lock"]
    with pytest.raises(NotFound, match="board t1 Not Found"):
        manager.stop("t1")


def test_a_board_that_is_still_starting_can_be_stopped(make: Make) -> None:
    manager = make()
    manager.start(task_target(manager.root, "t1"))
    manager.stop("t1")
    assert manager.boards() == []


def test_a_board_that_does_not_answer_is_killed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hkrunner.boards.manager.STOP_GRACE_S", 0.2)
    manager = make()
    board = ready(manager)
    for process in processes(board):
        os.kill(process.pid, signal.SIGSTOP)
    manager.stop("t1")
    assert are_gone(board) and manager.boards() == []


def test_a_loop_that_only_polls_kills_a_board_that_does_not_answer(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hkrunner.boards.manager.STOP_GRACE_S", 0.2)
    manager = make()
    board = ready(manager)
    os.kill(processes(board)[0].pid, signal.SIGSTOP)
    manager.request_stop("t1")

    def has_ended() -> bool:
        manager.poll()
        return are_gone(board) and manager.boards() == []

    wait_until(has_ended, what="its end")


def test_a_board_that_cannot_be_stopped_does_not_keep_others_from_being_stopped(make: Make) -> None:
    manager = make()
    with boards_of_another_host(manager.root, "a", "b"):
        board = ready(manager)
        results = list(manager.stop_each())
        assert [str(one) for one in results if isinstance(one, BoardError)] == [
            f"board {id} runs on the host elsewhere; stop it from there" for id in "ab"
        ]
        assert are_gone(board) and [one.id for one in manager.boards()] == ["a", "b"]


# --- who is left behind


def test_a_detached_board_outlives_its_starter_and_is_stopped_from_elsewhere(root: Path, make: Make) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from hkrunner.boards.manager import BoardManager; from hkrunner.boards.targets import all_target\n"
        "manager = BoardManager(Path(sys.argv[1]))\n"
        "manager.start(all_target(manager.root)); print(manager.wait('all').url); manager.close()"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, root], stdout=subprocess.PIPE, text=True, check=True
    )
    manager = make()
    (board,) = manager.boards()
    assert (board.url, board.is_attached) == (said.stdout.strip(), False)
    assert board.url is not None
    wait_until(lambda: runs_of(board.url or "") == ["t1"], what="its run")
    (board,) = manager.boards()
    manager.stop("all")
    assert are_gone(board) and manager.boards() == []


OWNER = """
import os, sys; from pathlib import Path
from hkrunner.boards.manager import BoardManager; from hkrunner.boards.board_record import Readiness
from hkrunner.boards.targets import all_target
manager = BoardManager(Path(sys.argv[1]), attached=True)
manager.start(all_target(manager.root))
manager.wait("all", Readiness.READY)
if sys.argv[2] == "fork" and os.fork() == 0:
    os.set_inheritable(0, True)
    import time
    while True: time.sleep(60)
print("ready", flush=True)
input()
"""


@pytest.mark.parametrize("kind", ["alone", "fork"])
def test_an_attached_board_ends_with_its_owner_however_that_ends(root: Path, make: Make, kind: str) -> None:
    """fork: a child of the owner lives on, and holds the pipe that the board watches."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, root, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None and owner.stdout.readline() == "ready\n"
    manager = make()
    (board,) = manager.boards()
    children = psutil.Process(owner.pid).children()
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert owner.stdin is not None
    owner.stdin.close()
    wait_until(lambda: are_gone(board), what="the end of the board")
    assert manager.boards() == []
    for child in children:
        if child.is_running():
            child.kill()


def test_a_killed_board_takes_its_data_server_along_and_is_shown_as_failed(make: Make) -> None:
    manager = make()
    board = ready(manager)
    os.kill(processes(board)[0].pid, signal.SIGKILL)
    wait_until(lambda: are_gone(board), what="the end of the data server")
    (shown,) = make(attached=False).boards()
    assert shown.status is BoardStatus.FAILED and "is gone" in (shown.error or "")
    ended = "the board's process was ended by SIGKILL"  # reports from before its end may come first
    wait_until(lambda: [board.error for board in manager.poll()] == [ended], what="news of the end")
    again = manager.start(task_target(manager.root, "t1"))
    assert again.is_new and again.board.reference != board.reference


def test_a_dead_data_server_is_replaced_and_the_address_stays(make: Make) -> None:
    manager = make()
    board = ready(manager)
    for count in (1, 2):
        before = manager.get("t1").data_server
        assert before is not None
        os.kill(before.pid, signal.SIGKILL)
        wait_until(lambda count=count: manager.get("t1").restarts == count, what="a new one")
        again = manager.wait("t1", Readiness.READY, deadline_s=BOARD_DEADLINE_S)
        assert (again.url, again.restarts) == (board.url, count)
        assert again.data_server is not None and again.data_server.pid != before.pid
        assert runs_of(again.url or "") == ["t1"]


def test_a_board_without_visitors_expires_and_reports_it(make: Make) -> None:
    manager = make(attached=False, idle_timeout_s=1)
    manager.start(task_target(manager.root, "t1"))
    wait_until(
        lambda: manager.boards()[0].status is BoardStatus.STOPPED,
        deadline_s=BOARD_DEADLINE_S,
        what="its end, perhaps before its run was loaded",
    )
    (shown,) = manager.boards()
    assert shown.result == "stopped after 1 s without a visit"
    assert shown.url is None and shown.end_time is not None
    wait_until(lambda: are_gone(shown), what="the end of its processes")


def test_a_board_ends_when_its_state_folder_is_removed(make: Make) -> None:
    manager = make(attached=False)
    board = ready(manager)
    shutil.rmtree(manager.root)
    wait_until(lambda: are_gone(board), what="its end")


# --- records that are not true


def recorded(manager: BoardManager, id: str, process: ProcessIdentity | None, **more: Any) -> Board:
    """Put a board that was not started into the list."""
    status = more.pop("status", BoardStatus.RUNNING)
    started = more.pop("start_time", round(time.time() * 1000))
    board = Board(id, f"reference-{id}", "all", str(manager.root), status, started, process=process)
    manager.records.make_folder()
    manager.records.save(board)
    return board


def test_a_pid_that_was_used_again_is_never_signalled(make: Make) -> None:
    manager = make()
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mine = own_identity()
    recorded(manager, "stale", ProcessIdentity(bystander.pid, mine.started, mine.host))
    assert manager.get("stale").status is BoardStatus.FAILED
    manager.stop("stale")
    assert bystander.poll() is None
    bystander.communicate()


def test_a_board_of_another_host_is_listed_and_not_changed(make: Make) -> None:
    manager = make()
    board = recorded(manager, "far", ProcessIdentity(os.getpid(), "1", "another-host"))
    assert manager.get("far").status is BoardStatus.RUNNING
    with pytest.raises(BoardError, match="board far runs on the host another-host; stop it from there"):
        manager.stop("far")
    manager.records.forget(board)


def test_a_start_that_was_killed_in_the_middle_is_failed_after_a_minute(make: Make) -> None:
    manager = make()
    recorded(manager, "half", None, status=BoardStatus.PENDING)
    assert manager.get("half").status is BoardStatus.PENDING
    pending = recorded(manager, "half", None, status=BoardStatus.PENDING, start_time=1000)
    assert manager.records.checked(pending).error == "the board's process never reported"


def test_files_that_are_no_records_are_ignored(make: Make) -> None:
    manager = make()
    manager.records.make_folder()
    (manager.records.folder / "broken.json").write_text("{")
    (manager.records.folder / "other.json").write_text('{"id": 7}')
    assert manager.boards() == []


def test_a_state_folder_that_cannot_be_written_is_one_sentence() -> None:
    manager = BoardManager(Path("/dev/null/state"))
    with pytest.raises(BoardError, match="board all cannot be started: Not a directory"):
        manager.start(all_target(manager.root))
    assert manager.boards() == []
