"""`--board` and `--api-port`: what runs beside a run, local or served, and ends as it should."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hkrunner.boards.manager import BoardManager
from support.boards import (
    BOARD_DEADLINE_S,
    boards_of,
    no_browser,
    recording_browser,
    runs_of,
    taken_port,
    visited,
)
from support.local import ALGORITHMS
from support.ports import free_port
from support.processes import runs
from support.programs import HKRUNNER, Program, Result, run_hkrunner
from support.routes import Client, running
from support.served import serving_worker
from support.waiting import wait_until

HELLO = ALGORITHMS / "metrics_names_its_folder.py"
NODE = "metrics_names_its_folder"
BOARD = f"local:{NODE}"
STAYS = "the board runs on and ends after 3 hours without a visitor; stop it: hkrunner board stop"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[BoardManager]:
    """What is known of boards in the folder's state; on exit none runs any more."""
    with boards_of(tmp_path / ".hkrunner") as manager:
        yield manager


def local(folder: Path, *args: str, env: dict[str, str | None] | None = None) -> Result:
    given = ("--entry", HELLO, "-i", "[3]", *args)
    return run_hkrunner(*given, cwd=folder, env=env, deadline_s=BOARD_DEADLINE_S)


def board_address(lines: list[str]) -> str:
    (line,) = [line for line in lines if line.startswith("● board ") and "routes" not in line]
    return line.split()[-1]


# ---- beside a local run


def test_the_board_of_a_local_run_shows_it_and_stays(manager: BoardManager, tmp_path: Path) -> None:
    ended = local(tmp_path, "-i", "[4]", "--board", "--open", env=dict(recording_browser(tmp_path)))
    assert ended.status == 0 and len(ended.stdout.splitlines()) == 2, ended
    url = board_address(ended.stderr.splitlines())
    wait_until(lambda: visited(tmp_path) == [url], what="a visit")
    assert f"{STAYS} {BOARD}\n" in ended.stderr
    wait_until(lambda: len(runs_of(url)) >= 2, deadline_s=BOARD_DEADLINE_S, what="two runs")
    assert [run.split()[0] for run in runs_of(url)] == ["t1", "t2"]

    # Another run appears on the same page.
    assert board_address(local(tmp_path, "--board").stderr.splitlines()) == url
    wait_until(
        lambda: any(run.startswith("t3") for run in runs_of(url)),
        deadline_s=BOARD_DEADLINE_S,
        what="the third run",
    )
    stopped = run_hkrunner("board", "stop", BOARD, cwd=tmp_path)
    assert stopped.stdout == f"■ board {BOARD} stopped\n"
    assert runs_of(url) == [] and manager.boards() == []


def test_the_board_of_an_algorithm_with_a_descriptor_shows_its_tasks(
    manager: BoardManager, tmp_path: Path
) -> None:
    (tmp_path / "algorithm.yml").write_text("name: my-alg\n")
    (tmp_path / "main.py").write_text(HELLO.read_text())
    ended = run_hkrunner("-i", "3", "--board", cwd=tmp_path, deadline_s=BOARD_DEADLINE_S)
    (board,) = manager.boards()
    assert board.id == "local:my-alg"
    wait_until(
        lambda: len(runs_of(board_address(ended.stderr.splitlines()))) == 1,
        deadline_s=BOARD_DEADLINE_S,
        what="the run",
    )


def test_the_port_that_was_asked_for_is_used_and_the_hint_to_stop_names_another_state_folder(
    tmp_path: Path,
) -> None:
    port = free_port()
    with boards_of(tmp_path / "kept"):
        ended = local(tmp_path, "--board", "--board-port", str(port), "--state-dir", "kept")
        assert f"{STAYS} {BOARD} --state-dir {tmp_path / 'kept'}\n" in ended.stderr
        assert board_address(ended.stderr.splitlines()).startswith(f"http://127.0.0.1:{port}/hkube/board/")


def test_two_runs_at_once_share_a_board(manager: BoardManager, tmp_path: Path) -> None:
    command = [HKRUNNER, "--entry", HELLO, "-i", "[3]", "--board"]
    with Program(command, cwd=tmp_path) as one, Program(command, cwd=tmp_path) as other:
        assert one.wait(deadline_s=BOARD_DEADLINE_S) == other.wait(deadline_s=BOARD_DEADLINE_S) == 0
        assert board_address(one.stderr) == board_address(other.stderr)
    (board,) = manager.boards()
    assert board.id == BOARD


def test_a_board_that_fails_does_not_fail_the_run(manager: BoardManager, tmp_path: Path) -> None:
    with taken_port() as port:
        ended = local(tmp_path, "--board", "--board-port", str(port))
    assert ended.status == 6 and NODE in ended.stdout, ended
    sentence = f"✘ board {BOARD} failed: port {port} is in use; choose another one, or 0 for a free one"
    assert ended.stderr.splitlines().count(sentence) == 1, ended.stderr


def test_warnings_that_the_user_made_errors_do_not_fail_a_board(
    manager: BoardManager, tmp_path: Path
) -> None:
    ended = local(tmp_path, "--board", "--api-port", "0", env={"PYTHONWARNINGS": "error"})
    assert ended.status == 0 and "● board routes at http://127.0.0.1:" in ended.stderr, ended
    url = board_address(ended.stderr.splitlines())
    wait_until(lambda: runs_of(url), deadline_s=BOARD_DEADLINE_S, what="the run")


def test_a_missing_browser_is_reported_and_the_board_stays(manager: BoardManager, tmp_path: Path) -> None:
    env = no_browser(tmp_path)
    for _ in range(5):  # a browser is waited for a second, in which a busy machine may not have tried it
        ended = local(tmp_path, "--board", "--open", env=env)
        assert ended.status == 0, ended
        url = board_address(ended.stderr.splitlines())
        if f"✘ no browser could be started; open {url} in one" in ended.stderr:
            return
    raise AssertionError(ended)


def test_a_board_needs_records(tmp_path: Path) -> None:
    for flags in (("--board",), ("--api-port", "0")):
        ended = local(tmp_path, *flags, "--no-state")
        assert (ended.status, ended.stdout) == (2, "")
        assert "--board and --api-port need the records of tasks" in ended.stderr


# ---- beside a run that serves a worker


def test_the_board_of_a_served_worker_shows_tasks_while_it_runs_and_ends_with_it(tmp_path: Path) -> None:
    with serving_worker(tmp_path, "--board", entry=HELLO) as (client, program):
        url = program.wait_for_line("● board all", deadline_s=BOARD_DEADLINE_S).split()[-1]
        for task in ("first", "second"):
            assert client.run([3], taskId=task)["command"] == "done"
            wait_until(
                lambda task=task: any(run.split()[0] == task for run in runs_of(url)),
                deadline_s=BOARD_DEADLINE_S,
                what=task,
            )
        family = program.family()
    assert not any(map(runs, family))
    assert BoardManager(tmp_path / ".hkrunner").boards() == []


def test_nothing_is_left_when_hkrunner_is_killed(tmp_path: Path) -> None:
    for _ in range(2):
        with serving_worker(tmp_path, "--board", "--api-port", "0", entry=HELLO) as (_, program):
            program.wait_for_line("● board all", deadline_s=BOARD_DEADLINE_S)
            program.wait_for_line("● board routes at", deadline_s=BOARD_DEADLINE_S)
            family: set[psutil.Process] = program.family()
            assert len(family) >= 5, family  # itself, the board with its data server, the routes, the child
            program.send_signal(signal.SIGKILL)
            program.wait()
            wait_until(lambda family=family: not any(map(runs, family)), what="the end of all of it")


def test_hkubes_routes_answer_beside_a_run(tmp_path: Path) -> None:
    with serving_worker(tmp_path, "--api-port", "0", entry=HELLO) as (client, program):
        line = program.wait_for_line("● board routes at ", deadline_s=BOARD_DEADLINE_S)
        routes = Client(line.removeprefix("● board routes at "))
        job = "4ispixlx3ka6"
        missing = {"jobId": job, "nodeName": "green"}
        status, value = routes("POST", "/tensors", missing)
        assert (status, value["error"]["message"]) == (404, f"pipeline {job} Not Found")

        assert client.run([3], taskId="first")["command"] == "done"
        for body, id in (
            ({"jobId": job, "taskId": "first"}, "first"),
            ({"jobId": job, "nodeName": "green"}, f"{job}:green"),
            ({"pipelineName": "simple", "nodeName": "green"}, "simple:green"),
        ):
            assert routes("POST", "/tensors", body) == (
                200,
                {"id": id, "message": "Board started successfully"},
            )
        boards = [running(routes, board["id"]) for board in routes("GET", "/tensors")[1]]
        assert [board["type"] for board in boards] == ["task", "batch", "node"]
        status, value = routes("POST", "/tensors", {"jobId": job, "nodeName": "green"})
        assert (status, value["error"]["message"]) == (400, "board: already started")
        assert routes("DELETE", "/tensors/first") == (200, {"message": "Board deleted"})
        assert routes("GET", "/tensors/first")[0] == 404
        family = program.family()
    assert not any(map(runs, family))


def test_a_taken_port_of_the_routes_is_reported_and_tasks_are_served(tmp_path: Path) -> None:
    with (
        taken_port() as port,
        serving_worker(tmp_path, "--api-port", str(port), entry=HELLO) as (client, program),
    ):
        program.wait_for_line(f"the board routes cannot listen on port {port}", deadline_s=BOARD_DEADLINE_S)
        assert client.run([3])["command"] == "done"
        program.send_signal(signal.SIGTERM)
        assert program.wait() == 143
