"""Runs a board over a run's tasks, and HKube's board routes, alongside the run. Neither delays the loop."""

from __future__ import annotations

import enum
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

from ...boards.board_record import Board, BoardStatus, Readiness
from ...boards.browser import BrowserProcess, show
from ...boards.errors import BoardError
from ...boards.manager import IDLE_TIMEOUT_S, BoardManager
from ...boards.rest_server import RestProcess
from ...boards.targets import Target
from ..console.terminal import Output
from ..io.loop import Loop, Timer

#: Seconds between two looks at what reports through no pipe, such as a board that ignores SIGTERM.
POLL_S = 1.0
#: How long the end of a run waits for the first data on a board that is to be opened in the browser.
READY_S = 3.0
#: Time from the start of the browser in which the end of a run waits for its exit status.
BROWSER_DEADLINE_S = 1.0


class BoardState(enum.Enum):
    """The state of the run's board, as far as it is known."""

    NOT_WANTED = "the run has no board"
    STARTING = "this process has started it, and it does not answer yet"
    STARTING_ELSEWHERE = "another process has started it: without a pipe, its record is read"
    LISTENING = "its address was printed"
    READY = "it shows at least one task"
    FAILED = "it failed, and why was printed"


_STARTING = (BoardState.STARTING, BoardState.STARTING_ELSEWHERE)
_SERVING = (BoardState.LISTENING, BoardState.READY)


class BoardAlongside:
    """The board and the routes of one run."""

    def __init__(self, loop: Loop, output: Output, root: Path, *, detached: bool) -> None:
        """detached: the board outlives the run, until it has had no visitor for hours."""
        self._loop = loop
        self._output = output
        self._root = root
        self._is_detached = detached
        self._state = BoardState.NOT_WANTED
        self._manager: BoardManager | None = None
        self._board_id = ""
        self._reference = ""
        self._url = ""
        self._notes: set[str] = set()  # those that were printed
        self._wants_browser = False
        self._browser: BrowserProcess | None = None
        self._routes: RestProcess | None = None
        self._have_routes_failed = False
        self._watched_fds: set[int] = set()
        self._timer: Timer | None = None
        self._on_progress: Callable[[], None] | None = None

    @property
    def failed(self) -> bool:
        """Whether the board or the routes failed; why was printed."""
        return self._state is BoardState.FAILED or self._have_routes_failed

    # ---- the board

    def start_board(self, target: Target, *, port: int, open_it: bool) -> None:
        """A board over the target is starting; its address is printed once it answers.

        open_it: the browser shows it once there is something to see.
        """
        # A board that ends with the run lasts as long as the run, with or without visitors.
        timeout_s = IDLE_TIMEOUT_S if self._is_detached else None
        self._manager = BoardManager(self._root, attached=not self._is_detached, idle_timeout_s=timeout_s)
        self._wants_browser = open_it
        try:
            started = self._manager.start(target, port=port)
        except BoardError as error:
            self._board_failed(str(error))
            return
        self._board_id, self._reference = started.board.id, started.board.reference
        self._state = BoardState.STARTING if started.is_new else BoardState.STARTING_ELSEWHERE
        if not started.is_new:
            self._take_report(started.board)
        self._watch()

    def start_routes(self, port: int) -> None:
        """HKube's board routes are starting; their address is printed once they answer."""
        try:
            self._routes = RestProcess(self._root, port=port)
        except BoardError as error:
            self._routes_failed(str(error))
            return
        self._watch()

    def wait(self, deadline_s: float) -> None:
        """The board answers, has failed, or is late; a signal ends the wait as well.

        A board that is to be opened is waited for a moment longer, until there is something to see.
        """
        if self._manager is None:
            return
        if self._state in _STARTING:
            self._wait_for_progress(deadline_s)
        if self._wants_browser and self._state in _SERVING:
            self._wait_for_progress(READY_S)
            if self._wants_browser:
                self._show()

    def close(self) -> None:
        """End what belongs to the run; print how to stop a detached board, which runs on."""
        if self._timer is not None:
            self._timer.cancel()
        for fd in self._watched_fds:
            self._loop.on_readable(fd, None)
        self._watched_fds.clear()
        # After a short run the browser may have been started only just now.
        self._look_at_browser(deadline_s=BROWSER_DEADLINE_S)
        if self._browser is not None:
            self._browser.detach()
        if self._manager is not None:
            if self._is_detached and self._state in _SERVING:
                self._print_how_to_stop()
            self._manager.close()
            if not self._is_detached:
                self._manager.wait_for_end()
        if self._routes is not None:
            self._routes.stop()

    def _wait_for_progress(self, deadline_s: float) -> None:
        """Run the loop until the board's state has changed, the deadline has passed, or a signal came."""
        self._on_progress = self._loop.stop
        timer = self._loop.after(deadline_s, self._loop.stop)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._loop.on_signal(number, self._loop.stop)
        self._loop.run()
        timer.cancel()
        self._on_progress = None

    def _print_how_to_stop(self) -> None:
        command = f"hkrunner board stop {shlex.quote(self._board_id)}"
        if self._root != Path(".hkrunner").absolute():
            command += f" --state-dir {shlex.quote(str(self._root))}"
        self._output.say(f"  the board runs on and ends after 3 hours without a visitor; stop it: {command}")

    # ---- reports

    def _watch(self) -> None:
        """Watch every pipe, and set a timer where a change may come without one."""
        fds = set(self._manager.fds()) if self._manager is not None else set()
        if self._routes is not None:
            fds.add(self._routes.fileno())
        for fd in self._watched_fds - fds:
            self._loop.on_readable(fd, None)
        for fd in fds - self._watched_fds:
            self._loop.on_readable(fd, self._poll)
        self._watched_fds = fds
        is_needed = bool(fds) or self._browser is not None or self._state is BoardState.STARTING_ELSEWHERE
        if is_needed and (self._timer is None or not self._timer.pending):
            self._timer = self._loop.after(POLL_S, self._poll)

    def _poll(self) -> None:
        """Read every report there is."""
        if self._manager is not None:
            self._poll_board(self._manager)
        self._look_at_browser()
        if self._routes is not None:
            self._poll_routes(self._routes)
        self._watch()

    def _poll_board(self, manager: BoardManager) -> None:
        for board in manager.poll():
            if board.reference == self._reference:
                self._take_report(board)
        if self._state is BoardState.STARTING_ELSEWHERE:
            found = manager.find(self._reference)
            if found is None:
                self._board_failed(f"board {self._board_id} was stopped while it started")
            else:
                self._take_report(found)

    def _poll_routes(self, routes: RestProcess) -> None:
        url_before = routes.url
        is_alive = routes.poll()
        if routes.url is not None and routes.url != url_before:
            self._output.say(f"● board routes at {routes.url}")
        if not is_alive:
            self._loop.on_readable(routes.fileno(), None)
            self._watched_fds.discard(routes.fileno())
            self._routes_failed(f"the board routes ended: {routes.error}")
            routes.stop()
            self._routes = None

    def _take_report(self, board: Board) -> None:
        if board.status is BoardStatus.FAILED:
            hint = f"; {board.hint}" if board.hint else ""
            self._board_failed(f"board {board.id} failed: {board.error}{hint}")
            return
        if board.url is None:
            return
        if self._state in _STARTING:
            self._url = board.url
            self._output.say(f"● board {board.id}  {board.url}")
            self._output.events.emit("board", {"id": board.id, "url": board.url})
            self._move(BoardState.LISTENING)
        for note in board.notes:
            if note not in self._notes:
                self._notes.add(note)
                self._output.say(f"◌ board {board.id}: {note}")
        if self._state is BoardState.LISTENING and board.readiness is Readiness.READY:
            if self._wants_browser:
                self._show()  # not before: an empty page fills only when its user reloads it
            self._move(BoardState.READY)

    def _board_failed(self, sentence: str) -> None:
        if self._state is not BoardState.FAILED:
            self._output.warn(f"✘ {sentence}")
            self._move(BoardState.FAILED)

    def _routes_failed(self, sentence: str) -> None:
        self._have_routes_failed = True
        self._output.warn(f"✘ {sentence}")

    def _move(self, state: BoardState) -> None:
        self._state = state
        if self._on_progress is not None:
            self._on_progress()

    # ---- the browser

    def _show(self) -> None:
        self._wants_browser = False
        try:
            self._browser = show(self._url)
        except OSError as error:
            self._output.warn(f"✘ no browser could be started: {error.strerror}")

    def _look_at_browser(self, *, deadline_s: float = 0.0) -> None:
        if self._browser is None:
            return
        if (problem := self._browser.problem(deadline_s=deadline_s)) is not None:
            self._output.warn(f"✘ {problem}")
        if self._browser.has_ended:
            self._browser = None
