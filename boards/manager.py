"""Starts, lists, waits for and stops boards, from any process that knows the state folder.

Each board is a process of its own (tensorboard/board_process.py), which supervises itself: it starts
TensorBoard and the data server, restarts the latter, reports its state, and ends when nobody needs it. So
this module needs no thread, and what a running hkrunner calls never waits:

    start()         writes the record, starts the process, returns at once
    fds()           one pipe per board of this process: readable when it has reported or ended
    poll()          reads the reports, reaps what ended, kills what did not stop when it was asked to
    request_stop()  sends SIGTERM; poll() does the rest

wait() and stop() are for the command line: the same with a deadline.

An *attached* board belongs to the process that started it and ends with it: its stdin is a pipe that this
process holds. A *detached* one is only listed by its record, and ends when it is stopped or has had no
visitor for a time. To stop a board of another process, the start time in its record is compared first, so
that a pid that was used again is never signalled.

start() is idempotent: it returns a live board of the same target. Two starts at once are put in order by a
lock on boards/.lock, held for a few milliseconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..sandbox.parent import warden_launch
from .board_child import BoardChild, send_signal, wait_until_gone
from .board_record import (
    OPTUNA,
    Board,
    BoardOrder,
    BoardRecords,
    BoardStatus,
    Readiness,
    new_reference,
    now_ms,
)
from .errors import BoardError, NotFound, StillStarting
from .runs.files import ProcessIdentity
from .spawn import spawn
from .targets import Target

IDLE_TIMEOUT_S = 3 * 3600.0  # HKube's BOARDS_TIMEOUT
START_DEADLINE_S = 60.0  # the first import of TensorBoard from a cold disk took 22 s
STOP_GRACE_S = 3.0
REAP_S = 2.0  # between the end of a process's first thread and that of its last
_LOCK_DEADLINE_S = 2.0
_LISTED_MS = 24 * 3600 * 1000  # how long a board that failed or expired is still listed


@dataclass(frozen=True)
class Started:
    """The board that shows the target; is_new: this call started it."""

    board: Board
    is_new: bool


class BoardManager:
    """The boards of a state folder."""

    def __init__(
        self, root: Path, *, attached: bool = False, idle_timeout_s: float | None = IDLE_TIMEOUT_S
    ) -> None:
        """attached: boards end with this process. idle_timeout_s: None keeps boards without visitors."""
        self.root = Path(os.path.abspath(root))
        self.records = BoardRecords(self.root)
        self._is_attached = attached
        self._idle_timeout_s = idle_timeout_s
        self._children: dict[str, BoardChild] = {}  # by reference
        self._stop_requested_at: dict[str, float] = {}  # reference -> when SIGTERM was sent

    # --- what never waits

    def start(self, target: Target, *, port: int = 0, optuna_storage: str | None = None) -> Started:
        """Start a board for the target, or find the one that shows it. port 0: a free one. Returns at once.

        Raises BoardError when no process could be started or the state folder cannot be written.
        """
        if not 0 <= port <= 65535:
            raise BoardError(f"{port} is not a port", hint="choose one of 1 to 65535, or 0 for a free one")
        try:
            self.records.make_folder()
            with self._lock():
                found = self.find(target.id, optuna=target.type == OPTUNA)
                if found is not None and found.is_live:
                    return Started(found, is_new=False)
                if found is not None:
                    self.records.forget(found)
                return Started(self._start(target, port, optuna_storage), is_new=True)
        except OSError as error:
            raise BoardError(f"board {target.id} cannot be started: {error.strerror or error}") from error

    def boards(self) -> list[Board]:
        """Return the boards of the state folder, oldest first; those that ended a day ago are removed."""
        listed = []
        for board in self.records.all():
            if not board.is_live and now_ms() - (board.end_time or board.start_time) > _LISTED_MS:
                self.records.forget(board)
            else:
                listed.append(board)
        return listed

    def find(self, id: str, *, optuna: bool | None = None) -> Board | None:
        """Return the latest board with this id or reference; None when there is none.

        optuna: only boards of optuna studies, or none of them; their ids are a name space of their own.
        """
        found = [
            board
            for board in self.records.all()
            if id in (board.id, board.reference) and optuna in (None, board.type == OPTUNA)
        ]
        return found[-1] if found else None

    def get(self, id: str) -> Board:
        """Return the board with this id. Raises NotFound in HKube's words."""
        board = self.find(id)
        if board is None:
            raise NotFound(f"board {id} Not Found")
        return board

    def address(self, id: str) -> str:
        """Return the board's URL. Raises NotFound, and BoardError when it has none."""
        board = self.get(id)
        if board.url is None:
            raise BoardError(f"board {id} has no address: it is {board.status.value}")
        return board.url

    def fds(self) -> list[int]:
        """Return what to wait on before poll(): readable when a board of this process reports or ends."""
        return [child.fileno() for child in self._children.values()]

    def poll(self) -> list[Board]:
        """Return the boards of this process that have changed since the last call; never waits."""
        changed = []
        for child in list(self._children.values()):
            latest = child.read_reports()
            if child.process.poll() is not None:
                latest = self._reap(child)
            elif time.monotonic() - self._requested_at(child.board) > STOP_GRACE_S:
                self._kill(child.board)
            if latest is not None:
                changed.append(latest)
        return changed

    def request_stop(self, id: str) -> Board:
        """Send SIGTERM to the board's process; remove the record of a board that has ended already.

        Raises NotFound, StillStarting, and BoardError for a board of another host or container.
        """
        board = self.get(id)
        if not board.is_live:
            self.records.forget(board)
            return board
        process = board.process or self._child_identity(board)
        if process is None:
            raise StillStarting(f"board {board.id} is just being started", hint="try again in a moment")
        if process.is_here_and_alive():
            send_signal(process, signal.SIGTERM)
            self._stop_requested_at.setdefault(board.reference, time.monotonic())
        elif self.records.may_live(process):
            where = "in another container" if process.is_of_other_namespace else f"on the host {process.host}"
            raise BoardError(f"board {board.id} runs {where}", hint="stop it from there")
        else:
            self.records.forget(board)
        return board

    def close(self) -> None:
        """Ask attached boards to end, see wait_for_end(); detached ones run on. Does not wait."""
        for child in self._children.values():
            if self._is_attached:
                child.close_stdin()
            else:
                child.detach()
        if not self._is_attached:
            self._children.clear()

    # --- what waits, with a deadline

    def wait(
        self, id: str, readiness: Readiness = Readiness.LISTENING, *, deadline_s: float = START_DEADLINE_S
    ) -> Board:
        """Return the board once it has got so far. Raises BoardError if it failed, stopped, or is late."""
        wanted = {Readiness.LISTENING, Readiness.READY} if readiness is Readiness.LISTENING else {readiness}
        end = time.monotonic() + deadline_s
        name = id  # until the id is known: this may be the reference, which means nothing to a reader
        while True:
            self.poll()
            board = self.find(id)
            if board is None:
                raise BoardError(f"board {name} was stopped while it started")
            name = board.id
            # For a child that has just died, the next poll() has a better sentence than its record.
            if board.status is BoardStatus.FAILED and board.reference not in self._children:
                raise BoardError(f"board {name} failed: {board.error}", hint=board.hint or "")
            if board.status is BoardStatus.RUNNING and board.readiness in wanted:
                return board
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise BoardError(
                    f"board {name} is {board.readiness.value}, not {readiness.value}, after {deadline_s:g} s",
                    hint=f"its log is {self.records.log_path(board.reference)}",
                )
            child = self._children.get(board.reference)
            if child is not None:
                child.wait_for_report(min(left_s, 0.25))
            else:  # a board of another process has no pipe to this one
                time.sleep(min(left_s, 0.02))

    def stop(self, id: str, *, deadline_s: float = 10.0) -> Board:
        """Stop the board; its processes and its record are gone afterwards. Raises NotFound, BoardError."""
        board = self._request_stop_until(id, time.monotonic() + deadline_s)
        processes = [p for p in (board.process or self._child_identity(board), board.data_server) if p]
        if board.is_live and processes and not wait_until_gone(processes, STOP_GRACE_S):
            self._kill(board)
            if not wait_until_gone(processes, deadline_s):
                raise BoardError(
                    f"board {id} (pid {processes[0].pid}) is not gone {deadline_s:g} s after SIGKILL"
                )
        self.records.forget(board)
        self.poll()
        return board

    def stop_each(self, ids: Collection[str] | None = None) -> Iterator[Board | BoardError]:
        """Stop these boards, or all of the state folder; yield each that has ended, or why it has not.

        Every board is tried, whatever became of those before it.
        """
        for id in [board.reference for board in self.records.all()] if ids is None else ids:
            try:
                yield self.stop(id)
            except NotFound as error:
                if ids is not None:  # a board that nobody has named may have ended by itself meanwhile
                    yield error
            except BoardError as error:
                yield error

    def reap(self, reference: str) -> None:
        """Reap a child whose record says that it is gone; its last thread may end after its first."""
        child = self._children.get(reference)
        if child is not None:
            warden_launch.has_ended(child.process, REAP_S)
            self.poll()

    def wait_for_end(self, *, deadline_s: float = 5.0) -> None:
        """Wait for the attached boards after close(), and kill those that still run at the deadline."""
        end = time.monotonic() + deadline_s
        for child in list(self._children.values()):
            child.kill_after(end)
            self._reap(child)

    # --- steps

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the lock of the state folder: only one process at a time runs the block."""
        fd = os.open(self.records.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            end = time.monotonic() + _LOCK_DEADLINE_S
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise BoardError(
                            f"another hkrunner has been starting a board for over {_LOCK_DEADLINE_S:g} s",
                            hint="look for one that is suspended or hangs",
                        ) from None
                    time.sleep(0.002)
            yield
        finally:
            os.close(fd)

    def _start(self, target: Target, port: int, optuna_storage: str | None) -> Board:
        """Start the board's process; its record says `pending`. Raises OSError."""
        board = Board(
            id=target.id,
            reference=new_reference(),
            type=target.type,
            log_dir=str(target.log_dir),
            status=BoardStatus.PENDING,
            start_time=now_ms(),
            task=target.task,
            job=target.job,
            node=target.node,
            pipeline=target.pipeline,
            is_attached=self._is_attached,
        )
        if not target.log_dir.exists():
            target.log_dir.mkdir(parents=True)
        _make_links(target)
        self.records.save(board)
        order = BoardOrder(str(self.root), board.reference, port, self._idle_timeout_s, optuna_storage)
        try:
            process = spawn("board", order.to_json(), self.records.log_path(board.reference))
        except OSError:
            self.records.forget(board)
            raise
        child = self._children[board.reference] = BoardChild(board, process)
        if not self._is_attached:
            child.close_stdin()
        return board

    def _reap(self, child: BoardChild) -> Board:
        """Return the board that has ended; its record says so, unless it was stopped and has none."""
        child.close_pipes()
        reference = child.board.reference
        del self._children[reference]
        was_requested = self._stop_requested_at.pop(reference, None) is not None
        board = self.records.read(reference)
        if board is None or was_requested:
            self.records.forget(child.board)
            return replace(child.board, status=BoardStatus.STOPPED, url=None, end_time=now_ms())
        if board.is_live:
            board = replace(
                self.records.failed(board, f"the board's process {child.how_it_ended()}"), end_time=now_ms()
            )
            with contextlib.suppress(OSError):
                self.records.save(board)
        return board

    def _request_stop_until(self, id: str, end: float) -> Board:
        """Do request_stop(), repeated until `end` for a board that has not yet said which process it is."""
        while True:
            try:
                return self.request_stop(id)
            except StillStarting:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def _requested_at(self, board: Board) -> float:
        return self._stop_requested_at.get(board.reference, float("inf"))

    def _kill(self, board: Board) -> None:
        for process in (board.process or self._child_identity(board), board.data_server):
            if process is not None:
                send_signal(process, signal.SIGKILL)

    def _child_identity(self, board: Board) -> ProcessIdentity | None:
        child = self._children.get(board.reference)
        return None if child is None else child.identity()


def _make_links(target: Target) -> None:
    for name, run in target.links:
        link = target.log_dir / name
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(run)
