"""HKube's board routes: paths, order and texts of the validation, bodies of answers and errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hkrunner.boards.board_record import Board, BoardStatus, now_ms
from hkrunner.boards.manager import BoardManager, Started
from hkrunner.boards.rest_routes import BoardRoutes, Response
from hkrunner.boards.runs.store import Store
from hkrunner.boards.runs.task_ids import TaskIds
from hkrunner.boards.targets import Target

BASE = "/api/v1/boards"


class StillManager(BoardManager):
    """Starts records only: no process is behind its boards."""

    def _start(self, target: Target, port: int, optuna_storage: str | None) -> Board:
        board = Board(
            id=target.id,
            reference=f"ref{len(self.records.all())}",
            type=target.type,
            log_dir=str(target.log_dir),
            status=BoardStatus.PENDING,
            start_time=now_ms(),
            task=target.task,
            job=target.job,
            node=target.node,
            pipeline=target.pipeline,
        )
        self.records.save(board)
        return board

    def stop(self, id: str, *, deadline_s: float = 10.0) -> Board:
        board = self.get(id)
        self.records.forget(board)
        return board

    def set(self, id: str, **changes: Any) -> None:
        self.records.save(replace(self.get(id), **changes))


@pytest.fixture
def manager(tmp_path: Path) -> StillManager:
    store = Store(tmp_path)
    store.open(TaskIds("task1", "job1", "green", "simple"), entry="a.py", started_at=1.0).finish({})
    store.close()
    return StillManager(tmp_path)


@pytest.fixture
def api(manager: StillManager) -> BoardRoutes:
    return BoardRoutes(manager)


def post(api: BoardRoutes, body: object, path: str = "/tensors") -> Response:
    return api.handle("POST", BASE + path, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize("base", [BASE, BASE + "/", "/hkube/api-server" + BASE])
def test_the_routes_have_a_name(api: BoardRoutes, base: str) -> None:
    assert api.handle("GET", base) == Response(200, {"message": "v1 boards api"})


@pytest.mark.parametrize(
    ("request_body", "id", "type", "log_dir"),
    [
        ({"taskId": "task1", "jobId": "job1"}, "task1", "task", "runs/simple/green/job1/task1"),
        ({"jobId": "job1", "nodeName": "green"}, "job1:green", "batch", "runs/simple/green/job1"),
        ({"pipelineName": "simple", "nodeName": "green"}, "simple:green", "node", "runs/simple/green"),
        ({"pipelineName": "no", "nodeName": "such"}, "no:such", "node", "runs/no/such"),
        (
            {"taskId": "task1", "jobId": "job1", "nodeName": "wrong", "pipelineName": "wrong", "more": 1},
            "task1",
            "task",
            "runs/simple/green/job1/task1",
        ),
    ],
)
def test_a_board_is_started_as_in_hkube(
    api: BoardRoutes, manager: StillManager, request_body: object, id: str, type: str, log_dir: str
) -> None:
    assert post(api, request_body) == Response(200, {"id": id, "message": "Board started successfully"})
    answer = api.handle("GET", f"{BASE}/tensors/{id.replace(':', '%3A')}")
    assert answer.status == 200
    board = answer.body
    assert isinstance(board, dict)
    assert (board["id"], board["type"], board["status"]) == (id, type, "pending")
    assert board["logDir"] == str(manager.root / log_dir)
    assert board["boardLink"] == f"hkube/board/{board['boardReference']}/"
    assert (board["result"], board["error"], board["endTime"]) == (None, None, None)
    assert api.handle("GET", f"{BASE}/tensors/").body == [board]


def test_keys_that_were_not_given_are_absent(api: BoardRoutes) -> None:
    post(api, {"pipelineName": "simple", "nodeName": "green"})
    board = api.handle("GET", f"{BASE}/tensors/simple:green").body
    assert isinstance(board, dict)
    assert not {"taskId", "jobId", "timestamp"} & board.keys()


@pytest.mark.parametrize(
    ("request_body", "status", "message"),
    [
        ({"taskId": "t"}, 400, "Must supply jobId"),
        ({}, 400, "Must supply nodeName"),
        ([], 400, "Must supply nodeName"),
        (b"", 400, "Must supply nodeName"),
        ({"jobId": "job1"}, 400, "Must supply nodeName"),
        ({"nodeName": "", "jobId": "job1"}, 400, "Must supply nodeName"),
        ({"nodeName": "green"}, 400, "Must supply pipeLineName"),
        ({"jobId": "no", "nodeName": "green"}, 404, "pipeline no Not Found"),
        ({"jobId": "job1", "nodeName": "no"}, 404, "node no for job job1 Not Found"),
        ({"jobId": "job1", "taskId": "no"}, 404, "No task no in job job1 undefined Not Found"),
        (b'{"nodeName": @}', 400, "Unexpected token @ in JSON at position 13"),
        (b'{"nodeName":', 400, "Unexpected end of JSON input"),
        (b"7", 400, "Unexpected token 7 in JSON at position 0"),
        (b'{"a":"\xff"}', 400, "the body is not UTF-8 at position 6"),
        pytest.param(b"[" * 200_000, 400, "the body is nested too deeply", id="deep"),
        pytest.param(b"[" + b"7" * 5000 + b"]", 400, "the body has a number of too many digits", id="long"),
        ({"nodeName": 7}, 400, "data.nodeName should be string"),
        (
            {"pipelineName": "", "nodeName": "a"},
            400,
            "data.pipelineName should NOT be shorter than 1 characters",
        ),
        (
            {"pipelineName": "a b", "nodeName": "a"},
            400,
            'data.pipelineName should match format "pipeline-name"',
        ),
    ],
)
def test_mistakes_are_reported_in_hkubes_order_and_words(
    api: BoardRoutes, request_body: object, status: int, message: str
) -> None:
    assert post(api, request_body) == Response(status, {"error": {"code": status, "message": message}})


@pytest.mark.parametrize("status", [BoardStatus.PENDING, BoardStatus.CREATING, BoardStatus.RUNNING])
def test_a_running_board_is_not_started_again(
    api: BoardRoutes, manager: StillManager, status: BoardStatus
) -> None:
    request = {"taskId": "task1", "jobId": "job1"}
    post(api, request)
    manager.set("task1", status=status)
    answer = post(api, request)
    assert answer.status == 400
    assert answer.body == {
        "error": {
            "code": 400,
            "message": "board: already started",
            "details": 'board {"jobId":"job1","taskId":"task1"} \n already started and is in '
            f"{status.value} status",
        }
    }


@pytest.mark.parametrize("status", [BoardStatus.STOPPED, BoardStatus.FAILED])
def test_a_board_that_ended_is_started_again_and_answered_with_its_id(
    api: BoardRoutes, manager: StillManager, status: BoardStatus
) -> None:
    request = {"jobId": "job1", "nodeName": "green"}
    post(api, request)
    manager.set("job1:green", status=status, error="it broke")
    assert post(api, request) == Response(200, {"id": "job1:green", "message": "Board started successfully"})
    (board,) = manager.boards()
    assert (board.status, board.error) == (BoardStatus.PENDING, None)


def test_a_failed_board_says_why(api: BoardRoutes, manager: StillManager) -> None:
    post(api, {"jobId": "job1", "nodeName": "green"})
    manager.set("job1:green", status=BoardStatus.FAILED, error="port 80 is in use", hint="choose another one")
    board = api.handle("GET", f"{BASE}/tensors/job1:green").body
    assert isinstance(board, dict)
    assert (board["status"], board["error"]) == ("failed", "port 80 is in use; choose another one")


def test_a_deleted_board_is_gone(api: BoardRoutes) -> None:
    post(api, {"jobId": "job1", "nodeName": "green"})
    assert api.handle("DELETE", f"{BASE}/tensors/job1%3Agreen") == Response(200, {"message": "Board deleted"})
    missing = Response(404, {"error": {"code": 404, "message": "board job1:green Not Found"}})
    assert api.handle("DELETE", f"{BASE}/tensors/job1%3Agreen") == missing
    assert api.handle("GET", f"{BASE}/tensors/job1%3Agreen") == missing


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/api/v1/board"),
        ("PUT", BASE + "/tensors"),
        ("POST", BASE),
        ("GET", BASE + "/tensors/a/b"),
    ],
)
def test_other_paths_are_not_found(api: BoardRoutes, method: str, path: str) -> None:
    assert api.handle(method, path) == Response(404, {"error": {"code": 404, "message": "Not Found"}})


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/optunas"), ("GET", "/optunas"), ("GET", "/optunas/a"), ("DELETE", "/optunas/a")],
)
def test_optuna_boards_need_their_package(
    api: BoardRoutes, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    monkeypatch.setattr("hkrunner.boards.rest_routes.is_installed", lambda: False)
    answer = api.handle(method, BASE + path)
    assert answer.status == 501
    assert "optuna-dashboard" in json.dumps(answer.body) and "pip install" in json.dumps(answer.body)


def test_the_boards_link_leads_to_the_board(api: BoardRoutes, manager: StillManager) -> None:
    post(api, {"jobId": "job1", "nodeName": "green"})
    (board,) = manager.boards()
    assert api.handle("GET", "/" + board.link).status == 503
    url = f"http://127.0.0.1:4000/{board.link}"
    manager.set(board.id, status=BoardStatus.RUNNING, url=url)
    answer = api.handle("GET", "/" + board.link)
    assert (answer.status, answer.headers) == (302, {"Location": url})
    assert api.handle("GET", "/hkube/board/unknown/").status == 404


# --- optuna, with the package installed


@pytest.fixture
def with_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hkrunner.boards.rest_routes.is_installed", lambda: True)


@pytest.mark.usefixtures("with_optuna")
def test_an_optuna_board_shows_the_study_of_its_job(api: BoardRoutes, manager: StillManager) -> None:
    study = manager.root / "runs" / "simple" / "green" / "job1" / "task1" / "study.db"
    study.write_bytes(b"SQLite format 3\x00")
    answer = post(api, {"jobId": "job1"}, "/optunas")
    (board,) = manager.boards()
    assert answer == Response(
        200,
        {
            "id": "job1",
            "message": "Board started successfully",
            "boardUrl": f"hkube/board/{board.reference}/dashboard",
        },
    )
    shown = api.handle("GET", f"{BASE}/optunas/job1").body
    assert isinstance(shown, dict) and shown["id"] == "job1" and "logDir" not in shown
    assert api.handle("GET", f"{BASE}/optunas").body == [shown]
    assert api.handle("GET", f"{BASE}/tensors").body == []
    assert api.handle("GET", f"{BASE}/tensors/job1").status == 404
    assert post(api, {"jobId": "job1"}, "/optunas").status == 400
    assert api.handle("DELETE", f"{BASE}/optunas/job1").body == {"message": "Board deleted"}


@pytest.mark.usefixtures("with_optuna")
@pytest.mark.parametrize(
    ("request_body", "status", "message"),
    [
        ({}, 400, "Must supply jobId"),
        ({"jobId": "no"}, 404, "pipeline no Not Found"),
        ({"jobId": "job1"}, 404, "job job1 has no optuna study"),
    ],
)
def test_an_impossible_optuna_board_is_refused(
    api: BoardRoutes, request_body: object, status: int, message: str
) -> None:
    assert post(api, request_body, "/optunas") == Response(
        status, {"error": {"code": status, "message": message}}
    )


def test_a_second_start_of_the_same_board_is_the_first(manager: StillManager) -> None:
    target = Target("a:b", "node", manager.root / "runs" / "a" / "b", node="b", pipeline="a")
    assert isinstance(first := manager.start(target), Started) and first.is_new
    assert not manager.start(target).is_new
