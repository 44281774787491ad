"""The record of a board: one file boards/<reference>.json below the state folder.

Two processes write it: the one that starts the board, before the board's own exists (`pending`), and then
the board's own. Every process of the user may read it and stop the board, since it says which process that
is: pid and start time, since a pid may have been used again. Only the owner can read the file (0600): the
reference in the board's address is a secret that keeps other users out.
"""

from __future__ import annotations

import enum
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from .runs.files import (
    ProcessIdentity,
    own_identity,
    read_json,
    remove_quietly,
    replace_file,
    safe_part,
    temporary_path,
    to_json,
)
from .runs.owner_lock import may_live

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
OPTUNA = "optuna"  # the type of a board that shows an optuna study instead of TensorBoard
REFERENCE_LENGTH = 20  # HKube has 4 of the same characters; 20 make 103 random bits
#: Name of a view, see view_folder().
_VIEW = re.compile(r"view-.*-(?P<namespace>\d*)-(?P<pid>\d+)-(?P<started>\w+-\d+)")
PENDING_LIMIT_S = 60.0  # without a report by then, the board has failed


class BoardStatus(str, enum.Enum):
    """What a board is doing, in HKube's words (@hkube/consts); HKube itself lacks one of them."""

    PENDING = "pending"
    CREATING = "creating"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"


LIVE = frozenset({BoardStatus.PENDING, BoardStatus.CREATING, BoardStatus.RUNNING})


class Readiness(str, enum.Enum):
    """What a visitor gets now, as probed by HTTP."""

    STARTING = "starting"  # no answer
    LISTENING = "listening"  # the page is served, no run is loaded
    READY = "ready"  # at least one run is loaded


@dataclass(frozen=True)
class Board:
    """One board. Times in ms since the epoch, as HKube has them; fields that do not apply are None."""

    id: str
    reference: str
    type: str
    log_dir: str
    status: BoardStatus
    start_time: int
    readiness: Readiness = Readiness.STARTING
    runs: int = 0
    url: str | None = None
    result: str | None = None
    error: str | None = None
    hint: str | None = None
    end_time: int | None = None
    timestamp: int | None = None
    task: str | None = None
    job: str | None = None
    node: str | None = None
    pipeline: str | None = None
    is_attached: bool = False  # ends with the process that started it
    process: ProcessIdentity | None = None
    data_server: ProcessIdentity | None = None
    loader: str | None = None  # "fast": TensorBoard's data server; "slow": TensorBoard itself
    version: str | None = None
    restarts: int = 0  # of the data server
    notes: tuple[str, ...] = field(default=())

    @property
    def link(self) -> str:
        """The board's address as HKube gives it: relative, without a leading slash."""
        return board_link(self.type, self.reference)

    @property
    def is_live(self) -> bool:
        """Whether it is starting or running."""
        return self.status in LIVE

    def to_hkube(self) -> dict[str, object]:
        """Return HKube's board object (openapi boards_successGetTensor), without fields that do not apply."""
        value: dict[str, object] = {
            "id": self.id,
            "boardReference": self.reference,
            "boardLink": self.link,
            "logDir": self.log_dir,
            "status": self.status.value,
            "result": self.result,
            "error": f"{self.error}; {self.hint}" if self.error and self.hint else self.error,
            "endTime": self.end_time,
            "startTime": self.start_time,
            "type": self.type,
        }
        names = {
            "taskId": self.task,
            "jobId": self.job,
            "nodeName": self.node,
            "pipelineName": self.pipeline,
            "timestamp": self.timestamp,
        }
        value.update({name: text for name, text in names.items() if text is not None})
        return value

    def to_dict(self) -> dict[str, object]:
        """Return HKube's object and our fields: the record, and `board ls --json`."""
        return {
            **self.to_hkube(),
            "error": self.error,
            "hint": self.hint,
            "url": self.url,
            "readiness": self.readiness.value,
            "runs": self.runs,
            "attached": self.is_attached,
            "process": self.process.to_dict() if self.process else None,
            "dataServer": self.data_server.to_dict() if self.data_server else None,
            "loader": self.loader,
            "version": self.version,
            "restarts": self.restarts,
            "notes": list(self.notes),
        }

    @staticmethod
    def from_dict(value: Mapping[str, object]) -> Board | None:
        """Return the board of a record; None when it is none. Keys of later versions are ignored."""
        try:
            return Board(
                id=_text(value["id"]),
                reference=_text(value["boardReference"]),
                type=_text(value["type"]),
                log_dir=_text(value["logDir"]),
                status=BoardStatus(value["status"]),
                start_time=_number(value["startTime"]),
                readiness=Readiness(value.get("readiness", "starting")),
                runs=_number(value.get("runs", 0)),
                url=_optional_text(value.get("url")),
                result=_optional_text(value.get("result")),
                error=_optional_text(value.get("error")),
                hint=_optional_text(value.get("hint")),
                end_time=_optional_number(value.get("endTime")),
                timestamp=_optional_number(value.get("timestamp")),
                task=_optional_text(value.get("taskId")),
                job=_optional_text(value.get("jobId")),
                node=_optional_text(value.get("nodeName")),
                pipeline=_optional_text(value.get("pipelineName")),
                is_attached=value.get("attached") is True,
                process=ProcessIdentity.from_dict(value.get("process")),
                data_server=ProcessIdentity.from_dict(value.get("dataServer")),
                loader=_optional_text(value.get("loader")),
                version=_optional_text(value.get("version")),
                restarts=_number(value.get("restarts", 0)),
                notes=_texts(value.get("notes")),
            )
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class BoardOrder:
    """What a board's process is to serve: the first line of its stdin."""

    root: str
    reference: str
    port: int
    idle_timeout_s: float | None
    optuna_storage: str | None = None

    def to_json(self) -> bytes:
        """Return the line."""
        return to_json(asdict(self))


class BoardRecords:
    """The folder of board records in a state folder."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self.folder = root / "boards"

    def make_folder(self) -> None:
        """Create the folder so that other users cannot list it."""
        if not self.folder.is_dir():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)

    def path(self, reference: str) -> Path:
        """Return the path of a record."""
        return self.folder / f"{reference}.json"

    def log_path(self, reference: str) -> Path:
        """Return the path of what the board's process prints."""
        return self.folder / f"{reference}.log"

    def save(self, board: Board) -> None:
        """Write the record of this board. Raises OSError."""
        replace_file(str(self.path(board.reference)), to_json(board.to_dict()), mode=0o600)

    def read(self, reference: str) -> Board | None:
        """Return the board as its record says, whether or not its process runs."""
        value = read_json(str(self.path(reference)))
        return None if value is None else Board.from_dict(value)

    def all(self) -> list[Board]:
        """Return every board, oldest first; one whose process is gone without a report is `failed`."""
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        found = (
            self.read(name[: -len(".json")])
            for name in names
            if name.endswith(".json") and not name.startswith(".")
        )
        boards = [self.checked(board) for board in found if board is not None]
        return sorted(boards, key=lambda board: (board.start_time, board.id))

    def checked(self, board: Board) -> Board:
        """Return the board as it is now: a live one whose process is gone has failed."""
        if not board.is_live:
            return board
        if board.process is None:
            if time.time() - board.start_time / 1000 < PENDING_LIMIT_S:
                return board
            return self.failed(board, "the board's process never reported")
        if self.may_live(board.process):
            return board
        return self.failed(board, f"the board's process (pid {board.process.pid}) is gone")

    def view_folder(self, process: ProcessIdentity) -> Path:
        """Return the folder that the TensorBoard of this board process reads, see tensorboard/run_view.py.

        Not named by the reference, which is a secret: others can read the data server's arguments.
        """
        name = f"view-{process.host}-{process.namespace}-{process.pid}-{process.started}"
        return self.folder / safe_part(name, limit=200)

    def remove_dead_views(self) -> None:
        """Remove the views of board processes of this host that were killed."""
        host = own_identity().host
        for folder in self.folder.glob("view-*"):
            named = _VIEW.fullmatch(folder.name)
            if named is None:
                continue
            process = ProcessIdentity(int(named["pid"]), named["started"], host, named["namespace"])
            if folder == self.view_folder(process) and not self.may_live(process):
                shutil.rmtree(folder, ignore_errors=True)

    def may_live(self, process: ProcessIdentity) -> bool:
        """Whether this process of a board may still run; False: it is known to be gone."""
        return may_live(process, self._root)

    def forget(self, board: Board) -> None:
        """Remove everything of the board from disk; its runs are not touched."""
        remove_quietly(str(self.path(board.reference)))
        remove_quietly(temporary_path(str(self.path(board.reference))))  # a signal may come during save()
        remove_quietly(str(self.log_path(board.reference)))
        if board.type == "pick" and Path(board.log_dir).parent == self.folder:
            shutil.rmtree(board.log_dir, ignore_errors=True)
        if board.process is not None and not self.may_live(board.process):
            shutil.rmtree(self.view_folder(board.process), ignore_errors=True)

    def log_tail(self, reference: str, *, lines: int = 5) -> str:
        """Return the last lines of the log of the board's process."""
        try:
            with self.log_path(reference).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.strip().splitlines()[-lines:])

    def failed(self, board: Board, what: str) -> Board:
        """Return the board as failed, with the last line of its log as the reason."""
        tail = self.log_tail(board.reference, lines=1)
        error = f"{what}; the last line of its log: {tail}" if tail else what
        return replace(
            board, status=BoardStatus.FAILED, readiness=Readiness.STARTING, url=None, error=error, hint=None
        )


def new_reference() -> str:
    """Return a name for a board that cannot be guessed."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(REFERENCE_LENGTH))


def board_link(type: str, reference: str) -> str:
    """Return the path part of a board's URL."""
    return f"hkube/board/{reference}/" + ("dashboard" if type == OPTUNA else "")


def now_ms() -> int:
    """Return the time in ms since the epoch."""
    return round(time.time() * 1000)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(value)


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(value)
    return value


def _optional_number(value: object) -> int | None:
    return None if value is None else _number(value)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(text for text in value if isinstance(text, str)) if isinstance(value, list) else ()
