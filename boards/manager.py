"""Start, list, open and stop boards, from any process that knows the state folder.

Who runs: each board is one process of its own (server.py), which watches over itself: it starts TensorBoard
and the data server, revives the latter, says how far it is, and ends when it has nobody. So this module
never needs a thread, and nothing in it that a running hkrunner calls ever waits:

    start()      writes the record, starts the process, returns at once
    fds()        one pipe per board of ours: readable when there is news, or when the board has ended
    poll()       takes the news, reaps what ended, kills what was asked to end and did not; bounded work
    ask_stop()   SIGTERM; poll() does the rest

The command line, which has nothing else to do, also has wait() and stop(), the same with a deadline.

Two kinds of boards. An *attached* board belongs to the process that started it and ends with it: its stdin
is a pipe that we hold. A *detached* one belongs to nobody, is listed by its record, ends when it is stopped
or has had no visitor for a time. Whoever stops a board of another process looks first whether the pid in the
record is still that very process (start time), and signals it by a pidfd, so that it cannot become another.

start() is idempotent: for a board that lives it returns that one. Two starts at once are put in order by a
lock on boards/.lock, held for the few milliseconds of a start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..sandbox.parent import warden_launch
from .board_record import OPTUNA, Board, BoardStatus, Order, Readiness, Records, new_reference, now_ms
from .errors import BoardError, NotFound, StillStarting
from .runs.files import Identity, read_json_bytes
from .targets import Target

IDLE_TIMEOUT_S = 3 * 3600.0  # HKube's BOARDS_TIMEOUT
START_DEADLINE_S = 60.0  # the first import of TensorBoard from a cold disk took 22 s
STOP_GRACE_S = 3.0
REAP_S = 2.0  # between the end of the first thread and that of the process
_LOCK_DEADLINE_S = 2.0
_KEPT_MS = 24 * 3600 * 1000  # how long a board that failed or expired is still listed
_SERVE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "start.py")


@dataclass(frozen=True)
class Started:
    """The board that shows the target; is_new: this call started it."""

    board: Board
    is_new: bool


@dataclass
class _Own:
    """A board that this process started, and still holds."""

    board: Board
    process: subprocess.Popen[bytes]
    rest: bytes = b""  # of a line that has not come whole


class BoardManager:
    """The boards of a state folder."""

    def __init__(
        self, root: Path, *, attached: bool = False, idle_timeout_s: float | None = IDLE_TIMEOUT_S
    ) -> None:
        """attached: boards end with this process. idle_timeout_s: None keeps boards that nobody visits."""
        self.root = Path(os.path.abspath(root))
        self.records = Records(self.root)
        self._is_attached = attached
        self._idle_timeout_s = idle_timeout_s
        self._own: dict[str, _Own] = {}
        self._asked_at: dict[str, float] = {}  # reference -> when SIGTERM was sent

    # --- what never waits

    def start(self, target: Target, *, port: int = 0, optuna_storage: str | None = None) -> Started:
        """A board shows the target, or is about to. port 0: a free one. Returns at once.

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
        """All boards of the state folder, oldest first; those that ended over a day ago are forgotten."""
        kept = []
        for board in self.records.all():
            if not board.is_live and now_ms() - (board.end_time or board.start_time) > _KEPT_MS:
                self.records.forget(board)
            else:
                kept.append(board)
        return kept

    def find(self, id: str, *, optuna: bool | None = None) -> Board | None:
        """The board with this id or reference; of several (one was replaced) the latest.

        optuna: only boards of optuna studies, or none of them; their ids are a name space of their own.
        """
        found = [
            board
            for board in self.records.all()
            if id in (board.id, board.reference) and optuna in (None, board.type == OPTUNA)
        ]
        return found[-1] if found else None

    def get(self, id: str) -> Board:
        """The board with this id. Raises NotFound in HKube's words."""
        board = self.find(id)
        if board is None:
            raise NotFound(f"board {id} Not Found")
        return board

    def fds(self) -> list[int]:
        """What to wait on before poll(): readable when a board of this process has news or has ended."""
        return [own.process.stdout.fileno() for own in self._own.values() if own.process.stdout is not None]

    def poll(self) -> list[Board]:
        """The boards of this process that have changed since the last call; never waits."""
        changed = []
        for own in list(self._own.values()):
            latest = self._read_news(own)
            if own.process.poll() is not None:
                latest = self._ended(own)
            elif time.monotonic() - self._asked_at.get(own.board.reference, float("inf")) > STOP_GRACE_S:
                self._kill(own.board)
            if latest is not None:
                changed.append(latest)
        return changed

    def ask_stop(self, id: str) -> Board:
        """The board is asked to end, and will; a board that has ended is forgotten.

        Raises NotFound, StillStarting, and BoardError for a board of another host.
        """
        board = self.get(id)
        if not board.is_live:
            self.records.forget(board)
            return board
        process = board.process or self._own_identity(board)
        if process is not None and not process.is_here_and_alive():
            if process.is_alive():
                raise BoardError(
                    f"board {board.id} runs on the host {process.host}", hint="stop it from there"
                )
            self.records.forget(board)
        elif process is not None:
            _signal(process, signal.SIGTERM)
            self._asked_at.setdefault(board.reference, time.monotonic())
        else:
            raise StillStarting(f"board {board.id} is just being started", hint="try again in a moment")
        return board

    def close(self) -> None:
        """Boards attached to this process end; detached ones go on. Does not wait: see wait_for_end()."""
        for own in self._own.values():
            _close_pipes(own.process, keep_stdout=self._is_attached)
            if not self._is_attached and own.process.poll() is None:
                # Nobody here waits for it any more, and Popen would complain of that.
                own.process.returncode = 0
        if not self._is_attached:
            self._own.clear()

    # --- what waits, with a deadline: for the command line and for tests

    def wait(
        self, id: str, readiness: Readiness = Readiness.LISTENING, *, deadline_s: float = START_DEADLINE_S
    ) -> Board:
        """The board has got so far. Raises BoardError if it failed, was stopped, or took too long."""
        wanted = {Readiness.LISTENING, Readiness.READY} if readiness is Readiness.LISTENING else {readiness}
        end = time.monotonic() + deadline_s
        name = id  # it may be the reference, which says nothing to a reader
        while True:
            self.poll()
            board = self.find(id)
            if board is None:
                raise BoardError(f"board {name} was stopped while it started")
            name = board.id
            # One that has just died in our hands fails with a better sentence in the next poll().
            if board.status is BoardStatus.FAILED and board.reference not in self._own:
                raise BoardError(f"board {name} failed: {board.error}", hint=board.hint or "")
            if board.status is BoardStatus.RUNNING and board.readiness in wanted:
                return board
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise BoardError(
                    f"board {name} is {board.readiness.value}, not {readiness.value}, after {deadline_s:g} s",
                    hint=f"its log is {self.records.log_path(board.reference)}",
                )
            self._wait_for_news(board, min(left_s, 0.02 if board.reference not in self._own else 0.25))

    def stop(self, id: str, *, deadline_s: float = 10.0) -> Board:
        """The board has ended, its processes are gone and its record too. Raises NotFound, BoardError."""
        end = time.monotonic() + deadline_s
        while True:
            try:
                board = self.ask_stop(id)
                break
            except StillStarting:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        processes = [p for p in (board.process or self._own_identity(board), board.data_server) if p]
        if board.is_live and processes:
            ends = _wait_for_end(processes, STOP_GRACE_S)
            if not ends:
                self._kill(board)
                ends = _wait_for_end(processes, deadline_s)
            if not ends:
                raise BoardError(
                    f"board {id} (pid {processes[0].pid}) is not gone {deadline_s:g} s after SIGKILL"
                )
        self.records.forget(board)
        self.poll()
        return board

    def stop_all(self) -> list[Board]:
        """No board of the state folder runs or is listed; returns those that were."""
        return [self.stop(board.reference) for board in self.records.all()]

    def wait_for_end(self, *, deadline_s: float = 5.0) -> None:
        """After close(): the boards attached to this process are gone; the last resort is SIGKILL."""
        end = time.monotonic() + deadline_s
        for own in list(self._own.values()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                own.process.wait(max(0.0, end - time.monotonic()))
            if own.process.poll() is None:
                own.process.kill()
                own.process.wait()
            self._ended(own)

    def address(self, id: str) -> str:
        """Where the board is visited. Raises NotFound, and BoardError when it is nowhere."""
        board = self.get(id)
        if board.url is None:
            raise BoardError(f"board {id} has no address: it is {board.status.value}")
        return board.url

    # --- steps

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
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
                            "another hkrunner has been starting a board for a while",
                            hint="look for one that is stopped or hangs",
                        ) from None
                    time.sleep(0.002)
            yield
        finally:
            os.close(fd)

    def _start(self, target: Target, port: int, optuna_storage: str | None) -> Board:
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
        order = Order(str(self.root), board.reference, port, self._idle_timeout_s, optuna_storage)
        try:
            process = spawn("board", order.to_json(), self.records.log_path(board.reference))
        except OSError:
            self.records.forget(board)
            raise
        if not self._is_attached:
            assert process.stdin is not None
            process.stdin.close()
        self._own[board.reference] = _Own(board, process)
        return board

    def reap(self, reference: str) -> None:
        """Take in how a board of ours ended that was seen to be gone.

        It may take a moment more: its first thread is gone before its last one is.
        """
        own = self._own.get(reference)
        if own is not None:
            warden_launch.has_ended(own.process, REAP_S)
            self.poll()

    def _read_news(self, own: _Own) -> Board | None:
        """The latest state among the lines that have come; None when none has."""
        assert own.process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            own.rest += os.read(own.process.stdout.fileno(), 1 << 16)
        *lines, own.rest = own.rest.split(b"\n")
        for line in lines:
            value = read_json_bytes(line)
            board = None if value is None else Board.from_dict(value)
            if board is not None:
                own.board = board
        return own.board if lines else None

    def _ended(self, own: _Own) -> Board:
        """The process is reaped; what it did not say itself is said for it."""
        _close_pipes(own.process)
        del self._own[own.board.reference]
        asked = self._asked_at.pop(own.board.reference, None) is not None
        board = self.records.read(own.board.reference)
        if board is None or asked:
            self.records.forget(own.board)
            return replace(own.board, status=BoardStatus.STOPPED, url=None, end_time=now_ms())
        if board.is_live:
            how = _how_it_ended(own.process.returncode)
            tail = self.records.log_tail(board.reference, lines=1)
            board = replace(
                board,
                status=BoardStatus.FAILED,
                readiness=Readiness.STARTING,
                url=None,
                error=f"the board's process {how}" + (f"; the last line of its log: {tail}" if tail else ""),
                end_time=now_ms(),
            )
            with contextlib.suppress(OSError):
                self.records.save(board)
        return board

    def _kill(self, board: Board) -> None:
        for process in (board.process or self._own_identity(board), board.data_server):
            if process is not None:
                _signal(process, signal.SIGKILL)

    def _own_identity(self, board: Board) -> Identity | None:
        own = self._own.get(board.reference)
        return None if own is None else Identity.of(own.process.pid)

    def _wait_for_news(self, board: Board, timeout_s: float) -> None:
        own = self._own.get(board.reference)
        pipe = None if own is None else own.process.stdout
        select.select([] if pipe is None else [pipe], [], [], timeout_s)


def spawn(module: str, first_line: bytes, log: Path) -> subprocess.Popen[bytes]:
    """A process of ours runs the module; its stdin holds the line, its stdout is a pipe. Raises OSError."""
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-E", _SERVE, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_fd,
            cwd="/",
            env=_environment(os.environ),
            start_new_session=True,
            bufsize=0,
        )
    finally:
        os.close(log_fd)
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(first_line)  # far below what a pipe takes without waiting
    os.set_blocking(process.stdout.fileno(), False)
    return process


#: Variables of the libraries that a board is made of: they are set for user code with other versions of them.
#: PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=cpp, for one, makes TensorBoard fail with protobuf 4 or newer.
_LIBRARY_PREFIXES = ("PROTOCOL_BUFFERS_", "GRPC_", "RUST_")


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a board: hkrunner's without what would change or break TensorBoard.

    gRPC would look for the data server on 127.0.0.1 through a proxy. PYTHON* is ignored by -E.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.lower().endswith("_proxy") and not name.startswith(_LIBRARY_PREFIXES)
    }
    return {**kept, "GRPC_VERBOSITY": "ERROR", "TF_CPP_MIN_LOG_LEVEL": "3"}


def _make_links(target: Target) -> None:
    for name, run in target.links:
        link = target.log_dir / name
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(run)


def _signal(process: Identity, number: signal.Signals) -> None:
    """Signal that very process, if it still is; never another that got its pid."""
    with contextlib.suppress(OSError):
        try:
            fd = os.pidfd_open(process.pid)
        except AttributeError:
            if process.is_here_and_alive():
                os.kill(process.pid, number)
            return
        try:
            if process.is_here_and_alive():
                signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)


def _wait_for_end(processes: list[Identity], timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while any(process.is_here_and_alive() for process in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def _close_pipes(process: subprocess.Popen[bytes], *, keep_stdout: bool = False) -> None:
    for pipe in (process.stdin, None if keep_stdout else process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
