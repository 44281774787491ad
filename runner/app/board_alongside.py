"""What runs beside a run: a board over its tasks, HKube's board routes. Neither ever holds up the loop."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from pathlib import Path

from ...boards.board_record import Board, BoardStatus, Readiness
from ...boards.browser import Visit, show
from ...boards.errors import BoardError
from ...boards.manager import IDLE_TIMEOUT_S, BoardManager
from ...boards.rest_server import ApiProcess
from ...boards.targets import Target
from ..console.terminal import Output
from ..io.loop import Loop, Timer

#: News come through pipes; this is for what has none (a board that was asked to end and does not).
LOOK_S = 1.0
#: How long the end of a run waits for something to see, where the board is to be opened.
READY_S = 3.0
#: How long the end of a run waits to hear that there is no browser.
BROWSER_DEADLINE_S = 1.0


class Beside:
    """The board and the routes of one run."""

    def __init__(self, loop: Loop, output: Output, root: Path, *, detached: bool) -> None:
        """`detached`: the board outlives the run, until it has had no visitor for hours."""
        self._loop = loop
        self._output = output
        self._root = root
        self._detached = detached
        self._manager: BoardManager | None = None
        self._board_id = ""
        self._reference = ""
        self._is_others = False
        self._open = False
        self._visit: Visit | None = None
        self._api: ApiProcess | None = None
        self._watched: set[int] = set()
        self._timer: Timer | None = None
        self._told: tuple[str, Readiness] | None = None
        self.failed = False
        self._on_settled: list[Callable[[], None]] = []

    # ---- the board

    def start_board(self, target: Target, *, port: int, open_it: bool) -> None:
        """A board over the target is under way; its address is told when it answers."""
        # A board that ends with the run lasts as long, visited or not.
        timeout_s = IDLE_TIMEOUT_S if self._detached else None
        self._manager = BoardManager(self._root, attached=not self._detached, idle_timeout_s=timeout_s)
        self._open = open_it
        try:
            started = self._manager.start(target, port=port)
        except BoardError as error:
            self._fail(str(error))
            return
        self._board_id, self._reference = started.board.id, started.board.reference
        self._is_others = not started.is_new
        if self._is_others:
            self._tell(started.board)
        self._watch()

    def start_routes(self, port: int) -> None:
        """HKube's board routes are under way; their address is told when they answer."""
        try:
            self._api = ApiProcess(self._root, port=port)
        except BoardError as error:
            self._fail(str(error))
            return
        self._watch()

    def _watch(self) -> None:
        fds = set(self._manager.fds()) if self._manager is not None else set()
        if self._api is not None:
            fds.add(self._api.fileno())
        for fd in self._watched - fds:
            self._loop.on_readable(fd, None)
        for fd in fds - self._watched:
            self._loop.on_readable(fd, self._look)
        self._watched = fds
        wants_look = bool(fds) or self._waits_for_others or self._visit is not None
        if wants_look and (self._timer is None or not self._timer.pending):
            self._timer = self._loop.after(LOOK_S, self._look)

    @property
    def _waits_for_others(self) -> bool:
        """A board that another process has just started has no pipe to us: its record is looked at."""
        return self._is_others and self._told is None and not self.failed

    def _look(self) -> None:
        """Take the news."""
        if self._manager is not None:
            for board in self._manager.poll():
                if board.reference == self._reference:
                    self._tell(board)
            if self._waits_for_others:
                found = self._manager.find(self._reference)
                if found is None:
                    self._fail(f"board {self._board_id} was stopped while it started")
                else:
                    self._tell(found)
        self._look_at_browser()
        if self._api is not None:
            before = self._api.url
            alive = self._api.poll()
            if self._api.url is not None and self._api.url != before:
                self._output.say(f"● board routes at {self._api.url}")
            if not alive:
                self._loop.on_readable(self._api.fileno(), None)
                self._watched.discard(self._api.fileno())
                self._fail(f"the board routes ended: {self._api.error}")
                self._api.stop()
                self._api = None
        self._watch()

    def _tell(self, board: Board) -> None:
        if board.status is BoardStatus.FAILED:
            self._fail(f"board {board.id} failed: {board.error}" + (f"; {board.hint}" if board.hint else ""))
            return
        if board.url is None or self._told == (board.url, board.readiness):
            return
        first = self._told is None
        self._told = (board.url, board.readiness)
        if first:
            self._output.say(f"● board {board.id}  {board.url}")
            self._output.events.emit("board", {"id": board.id, "url": board.url})
        if self._open and board.readiness is Readiness.READY:
            self._show(board.url)  # not before: an empty page fills only when its user reloads it
        if first or board.readiness is Readiness.READY:
            self._settle()

    def _show(self, url: str) -> None:
        self._open = False
        try:
            self._visit = show(url)
        except OSError as error:
            self._output.warn(f"✘ no browser could be started: {error.strerror}")

    def _look_at_browser(self, *, deadline_s: float = 0.0) -> None:
        if self._visit is None:
            return
        if (problem := self._visit.problem(deadline_s=deadline_s)) is not None:
            self._output.warn(f"✘ {problem}")
        if self._visit.is_over:
            self._visit = None

    def _fail(self, text: str) -> None:
        if not self.failed:
            self.failed = True
            self._output.warn(f"✘ {text}")
            self._settle()

    def _settle(self) -> None:
        callbacks, self._on_settled = self._on_settled, []
        for callback in callbacks:
            callback()

    def wait(self, deadline_s: float) -> None:
        """The board answers, has failed, or is not waited for any longer (the deadline, or a signal).

        One that is to be opened is waited for a moment longer, until there is something to see.
        """
        if self._manager is None:
            return
        if not self.failed and self._told is None:
            self._wait_for_news(deadline_s)
        if self._open and not self.failed and self._told is not None:
            self._wait_for_news(READY_S)
            if self._open:
                self._show(self._told[0])

    def _wait_for_news(self, deadline_s: float) -> None:
        self._on_settled.append(self._loop.stop)
        timer = self._loop.after(deadline_s, self._loop.stop)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._loop.on_signal(number, self._loop.stop)
        self._loop.run()
        timer.cancel()

    # ---- the end

    def close(self) -> None:
        """What ends with the run has ended; a detached board goes on, and it is said how to end it."""
        if self._timer is not None:
            self._timer.cancel()
        for fd in self._watched:
            self._loop.on_readable(fd, None)
        self._watched.clear()
        # After a short run the browser has only just been asked for.
        self._look_at_browser(deadline_s=BROWSER_DEADLINE_S)
        if self._visit is not None:
            self._visit.leave()
        if self._manager is not None:
            if self._detached and self._told is not None and not self.failed:
                stop = f"hkrunner board stop {shlex.quote(self._board_id)}"
                if self._root != Path(".hkrunner").absolute():
                    stop += f" --state-dir {shlex.quote(str(self._root))}"
                self._output.say(f"  the board stays until nobody has looked at it for 3 hours: {stop}")
            self._manager.close()
            if not self._detached:
                self._manager.wait_for_end()
        if self._api is not None:
            self._api.stop()
