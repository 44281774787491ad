"""HKube's REST routes for boards (core/api-server api/rest-api/routes/v1/boards.js), without the HTTP.

Paths, the order and texts of the validation, ids, the board object, statuses and error bodies are HKube's.
Where HKube's are defective these differ: a board that cannot start is `failed` and says why; a second start
while the first is in progress is refused, and never answers with a whole object as id; an error has the true
status; optuna boards are identified by their job.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from .board_record import OPTUNA, Board
from .errors import BoardError, NotFound
from .manager import BoardManager
from .targets import Target, batch_target, node_target, task_target
from .tensorboard.optuna import is_installed, optuna_target, storage_of

BASES = ("/hkube/api-server/api/v1/boards", "/api/v1/boards")
_BOARD_LINK = re.compile(r"/hkube/board/([0-9a-z]+)(?:/.*)?")
_PIPELINE_NAME = re.compile(r"[-_.A-Za-z0-9]+")


@dataclass(frozen=True)
class Response:
    """The answer: a status, a JSON value, and further headers."""

    status: int
    body: object
    headers: Mapping[str, str] = field(default_factory=dict)


class RouteError(Exception):
    """The request is answered with an error body in HKube's form."""

    def __init__(self, status: int, message: str, details: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.details = details

    def response(self) -> Response:
        """Return the answer."""
        error: dict[str, object] = {"code": self.status, "message": str(self)}
        if self.details is not None:
            error["details"] = self.details
        return Response(self.status, {"error": error})


class BoardRoutes:
    """The routes over the boards of a manager; one call at a time."""

    def __init__(self, manager: BoardManager) -> None:
        self._manager = manager

    def handle(self, method: str, path: str, body: bytes | None = None) -> Response:
        """Answer one request. path: as sent, without the query. body: None when it was not JSON by type."""
        try:
            return self._route(method, path, body)
        except RouteError as error:
            return error.response()
        except NotFound as error:
            return RouteError(404, error.sentence).response()
        except BoardError as error:
            return RouteError(500, error.sentence, error.hint or None).response()

    def _route(self, method: str, path: str, body: bytes | None) -> Response:
        if method == "GET" and (match := _BOARD_LINK.fullmatch(path)):
            return self._redirect(match.group(1))
        base = next((base for base in BASES if path == base or path.startswith(base + "/")), None)
        parts = [] if base is None else [unquote(part) for part in path[len(base) :].split("/") if part]
        match (method, parts):
            case ("GET", []) if base is not None:
                return Response(200, {"message": "v1 boards api"})
            case ("POST", ["tensors"]):
                return self._start_tensors(_object(body))
            case ("GET", ["tensors"]):
                return Response(
                    200, [board.to_hkube() for board in self._manager.boards() if not _is_optuna(board)]
                )
            case ("GET", ["tensors", id]):
                return Response(200, self._get(id, optuna=False).to_hkube())
            case ("DELETE", ["tensors", id]):
                return self._delete(self._get(id, optuna=False))
            case (_, ["optunas", *_]) if not is_installed():
                raise RouteError(
                    501,
                    "optuna boards need the package optuna-dashboard",
                    "run: pip install 'hkrunner[optuna]'",
                )
            case ("POST", ["optunas"]):
                return self._start_optuna(_object(body))
            case ("GET", ["optunas"]):
                return Response(
                    200, [_optuna_object(board) for board in self._manager.boards() if _is_optuna(board)]
                )
            case ("GET", ["optunas", id]):
                return Response(200, _optuna_object(self._get(id, optuna=True)))
            case ("DELETE", ["optunas", id]):
                return self._delete(self._get(id, optuna=True))
        raise RouteError(404, "Not Found")

    def _start_tensors(self, request: Mapping[str, object]) -> Response:
        names = _names(request)
        board = self._start(self._target(names), names)
        return Response(200, {"id": board.id, "message": "Board started successfully"})

    def _target(self, names: Mapping[str, str]) -> Target:
        """Return what the request asks for; checked in the order of HKube's lib/validation/boards.js."""
        task, job = names.get("taskId"), names.get("jobId")
        node, pipeline = names.get("nodeName"), names.get("pipelineName")
        root = self._manager.root
        if task and not job:
            raise RouteError(400, "Must supply jobId")
        if not (node or task):
            raise RouteError(400, "Must supply nodeName")
        if not (job or pipeline):
            raise RouteError(400, "Must supply pipeLineName")
        if task:
            return task_target(root, task, job=job)
        assert node
        if job:
            return batch_target(root, job, node)
        assert pipeline
        return node_target(root, pipeline, node)

    def _start_optuna(self, request: Mapping[str, object]) -> Response:
        names = _names(request)
        job = names.get("jobId")
        if not job:
            raise RouteError(400, "Must supply jobId")
        target = optuna_target(self._manager.root, job)
        board = self._start(target, names, optuna_storage=storage_of(target))
        return Response(200, {"id": job, "message": "Board started successfully", "boardUrl": board.link})

    def _start(self, target: Target, names: Mapping[str, str], *, optuna_storage: str | None = None) -> Board:
        started = self._manager.start(target, optuna_storage=optuna_storage)
        if not started.is_new:
            given = json.dumps(names, separators=(",", ":"), ensure_ascii=False)
            raise RouteError(
                400,
                "board: already started",
                f"board {given} \n already started and is in {started.board.status.value} status",
            )
        return started.board

    def _get(self, id: str, *, optuna: bool) -> Board:
        board = self._manager.find(id, optuna=optuna)
        if board is None:
            raise RouteError(404, f"board {id} Not Found")
        return board

    def _delete(self, board: Board) -> Response:
        self._manager.stop(board.reference)
        return Response(200, {"message": "Board deleted"})

    def _redirect(self, reference: str) -> Response:
        """Redirect from boardLink, which is relative to HKube's ingress and to this server, to the board."""
        board = self._manager.find(reference)
        if board is None:
            raise RouteError(404, f"board {reference} Not Found")
        if board.url is None:
            raise RouteError(503, f"board {board.id} is {board.status.value}", board.error)
        return Response(302, {"message": "Found"}, {"Location": board.url})


def _is_optuna(board: Board) -> bool:
    return board.type == OPTUNA


def _optuna_object(board: Board) -> dict[str, object]:
    """Return HKube's object of an optuna board, which has fewer fields."""
    wanted = (
        "id",
        "boardReference",
        "boardLink",
        "status",
        "result",
        "error",
        "endTime",
        "startTime",
        "timestamp",
    )
    value = board.to_hkube()
    return {name: value[name] for name in wanted if name in value}


def _object(body: bytes | None) -> Mapping[str, object]:
    """Return the request's object; a body of another type counts as an empty one, as with body-parser."""
    if not body:
        return {}
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise RouteError(400, f"the body is not UTF-8 at position {error.start}") from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        # The api-server passes on what Node's parser says.
        if error.pos >= len(text.rstrip()):
            raise RouteError(400, "Unexpected end of JSON input") from error
        raise RouteError(
            400, f"Unexpected token {text[error.pos]} in JSON at position {error.pos}"
        ) from error
    except RecursionError:
        raise RouteError(400, "the body is nested too deeply") from None
    except ValueError:
        raise RouteError(400, "the body has a number of too many digits") from None
    if not isinstance(value, (dict, list)):
        raise RouteError(400, f"Unexpected token {text.strip()[0]} in JSON at position 0")
    return value if isinstance(value, dict) else {}


def _names(request: Mapping[str, object]) -> dict[str, str]:
    """Return the names in the request, checked by the schema createBoardRequest; others are ignored."""
    names = {}
    for name in ("pipelineName", "nodeName", "jobId", "taskId"):
        value = request.get(name)
        if name not in request:
            continue
        if not isinstance(value, str):
            raise RouteError(400, f"data.{name} should be string")
        names[name] = value
    pipeline = names.get("pipelineName")
    if pipeline == "":
        raise RouteError(400, "data.pipelineName should NOT be shorter than 1 characters")
    if pipeline is not None and _PIPELINE_NAME.fullmatch(pipeline) is None:
        raise RouteError(400, 'data.pipelineName should match format "pipeline-name"')
    return names
