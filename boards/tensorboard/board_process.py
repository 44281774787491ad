"""The process of one board: TensorBoard, guarded and supervised. Started by spawn.py through start.py.

    starter --stdin--> this process        first line: the BoardOrder as JSON; EOF: the starter has ended
    starter <--stdout-- this process       one JSON line per change: the record, as in boards/<reference>.json
    this process --stdin--> data server    nothing; EOF ends the data server
    this process <--gRPC--> data server    127.0.0.1
    visitors --HTTP--> this process        127.0.0.1, host_check.py before TensorBoard's own application
    all processes <-- boards/<reference>.json  written by this process alone once it runs

Threads: the main thread starts everything, then probes the board by HTTP as a visitor would, watches the data
server and writes the record; `owner` watches stdin and our parent; the rest are TensorBoard's.

Nothing is left behind whichever process is killed. The data server ends at EOF on its stdin, so with us. We
end at EOF on ours or, should a fork of the starter hold that pipe open, when our parent changes, which is
looked at every second. A detached board (`hkrunner board start`) has no such owner: it ends when it is
stopped, or after `idle_timeout_s` without a visitor. A dead data server is restarted on the same port.

The order comes through stdin and not as an argument: every user of the machine can read arguments, and the
board's address is a secret.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..board_record import Board, BoardOrder, BoardRecords, BoardStatus, Readiness, now_ms
from ..end_with_owner import read_line, watch_owner
from ..runs import owner_lock
from ..runs.files import own_identity, to_json
from ..targets import task_depth
from .assets import Assets
from .board_probe import BoardProbe
from .data_server import DataServer, DataServerError, find_binary
from .host_check import HostCheck
from .live_page import live_page
from .optuna import CookieCheck, cookie, dashboard
from .run_view import RunView
from .start_failures import StartFailure, failure_of, too_little_memory
from .tensorboard_parts import load_plugins, shipped_assets, without_remote_files

if TYPE_CHECKING:
    from .application import TaskApplication  # imports TensorBoard

RELOAD_S = 1  # new points are loaded within a second; the page asks for them at its own intervals
SCALAR_POINTS = 10_000  # kept per curve; TensorBoard's own default is 1,000
_HUNG_S = 20.0  # without a usable answer for this long, the data server counts as hung
_MAX_RESTARTS = 5  # of the data server within a minute; one more, and the board has failed
_LOG_LIMIT_BYTES = 4 << 20


def main() -> NoReturn:
    """Serve the board that the first line of stdin orders, until it is stopped."""
    order = BoardOrder(**json.loads(read_line(0)))
    report_fd = _keep_stdout_for_reports()
    process = BoardProcess(order, report_fd)
    process.run()


class BoardProcess:
    """The board that this process serves."""

    def __init__(self, order: BoardOrder, report_fd: int) -> None:
        self._order = order
        self._records = BoardRecords(Path(order.root))
        board = self._records.read(order.reference)
        if board is None:  # it was stopped before this process ran
            sys.exit(0)
        self._board: Board = replace(board, process=own_identity(), status=BoardStatus.CREATING)
        self._report_fd = report_fd
        self._lock = threading.RLock()
        self._data_server: DataServer | None = None
        self._host_check: HostCheck | None = None
        self._restarted_at: list[float] = []
        self._view_notes: tuple[str, ...] = ()  # those of the record that are the view's
        self._view = RunView(
            str(self._records.view_folder(own_identity())),
            root=order.root,
            log_dir=board.log_dir,
            max_files=_max_files(),
        )

    def run(self) -> NoReturn:
        """Serve the board until it fails, expires or is stopped; then end this process."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._end())
        if self._board.is_attached:
            watch_owner(self._end)
        _lift_limits()
        owner_lock.hold(self._order.root)
        self._update()
        if failure := too_little_memory():
            self._fail(failure)
        try:
            if self._order.optuna_storage is None:
                self._records.remove_dead_views()
                self._view.make(task_depth(self._board.type, Path(self._board.log_dir)))
                self._start_data_server()
                self._view.name_latest()
                _check_port(self._order.port)
                probe = self._launch()
            else:
                _check_port(self._order.port)
                probe = self._launch_optuna(self._order.optuna_storage)
        except BaseException as error:  # noqa: BLE001 - every error ends this process, with a sentence
            tail = self._records.log_tail(self._order.reference, lines=3)
            package = "tensorboard" if self._order.optuna_storage is None else "optuna-dashboard"
            self._fail(failure_of(error, package=package, port=self._order.port, log_tail=tail))
        self._supervise(probe)

    # --- starting

    def _start_data_server(self) -> None:
        """Start the data server, which reads the runs while TensorBoard is imported."""
        try:
            server = DataServer(
                find_binary(),
                self._view.folder,
                # Not named by the reference, which is a secret: others can read the data server's arguments.
                port_file=self._records.folder / f".{self._records.view_folder(own_identity()).name}.port",
                reload_s=RELOAD_S,
                samples=SCALAR_POINTS,
            )
            server.start()
        except DataServerError as error:
            self._note_slow(error)
        else:
            self._data_server = server

    def _launch(self) -> BoardProbe:
        """Have TensorBoard serve; return how to probe it."""
        if self._data_server is None:
            # The slow loader would import TensorFlow where it is installed: 3.5 s and 450 MB more.
            sys.modules["tensorboard.compat.notf"] = types.ModuleType("tensorboard.compat.notf")
        with without_remote_files():
            from tensorboard import default, program  # noqa: F401 - default: all that load_plugins() needs

            from .application import TaskApplication

        plugins, notes = load_plugins()
        tasks = TaskApplication(plugins, self._view.shown)
        address = self._data_server_address()
        prefix = "/" + self._board.link.rstrip("/")
        assets = shipped_assets()
        board = program.TensorBoard(
            plugins=tasks.unloaded_plugins(),
            assets_zip_provider=assets.pages if assets else None,
            server_class=self._server_class(tasks, prefix, assets),
        )
        board.configure(
            argv=("",),
            logdir=self._view.folder,
            host="127.0.0.1",
            port=self._order.port,
            path_prefix=prefix,
            window_title=self._board.id,
            reload_interval=RELOAD_S,
            reload_multifile=True,
            samples_per_plugin={"scalars": SCALAR_POINTS},
            grpc_data_provider=address,
            load_fast="false",
        )
        url: str = board.launch()
        self._view.follow()
        self._update(
            url=url,
            version=importlib.metadata.version("tensorboard"),
            loader="fast" if self._data_server else "slow",
            data_server=self._data_server.identity() if self._data_server else None,
            notes=(*self._board.notes, *notes),
        )
        return BoardProbe(url, health_path="data/environment", list_path="data/runs", count=self._view.count)

    def _launch_optuna(self, storage: str) -> BoardProbe:
        """Have the dashboard of an optuna study serve; return how to probe it."""
        from werkzeug.serving import make_server

        prefix = "/" + self._board.link
        self._host_check = HostCheck(CookieCheck(dashboard(storage), prefix), prefix)
        server = make_server("127.0.0.1", self._order.port, self._host_check, threaded=True)
        threading.Thread(target=server.serve_forever, name="dashboard", daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        self._update(url=address + prefix, version=importlib.metadata.version("optuna-dashboard"))
        key = cookie(self._order.reference)
        return BoardProbe(
            f"{address}/",
            health_path="api/meta",
            list_path="api/studies",
            list_key="study_summaries",
            cookie=key,
        )

    def _data_server_address(self) -> str:
        if self._data_server is None:
            return ""
        try:
            self._data_server.wait_for_port(deadline_s=20)
        except DataServerError as error:
            self._data_server.kill()
            self._data_server = None
            self._note_slow(error)
            sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
            return ""
        return f"127.0.0.1:{self._data_server.port}"

    def _server_class(
        self, tasks: TaskApplication, prefix: str, assets: Assets | None
    ) -> Callable[[Any, Any], Any]:
        from tensorboard import program

        def make(_: Any, flags: Any) -> Any:
            application = tasks.make()
            served = assets.before(application, prefix) if assets else application
            self._host_check = HostCheck(live_page(served, prefix, self._view.state), prefix)
            return program.WerkzeugServer(self._host_check, flags)

        return make

    def _note_slow(self, error: DataServerError) -> None:
        self._board = replace(
            self._board, notes=(*self._board.notes, f"the fast loader cannot be used: {error}")
        )

    # --- serving

    def _supervise(self, probe: BoardProbe) -> NoReturn:
        """Probe the board, restart its data server, and keep the record true, until the board ends."""
        pause_s = 0.02
        answered_at = time.monotonic()
        while True:
            if self._board.status is not BoardStatus.RUNNING and probe.is_answered():
                self._update(status=BoardStatus.RUNNING, readiness=Readiness.LISTENING)
            began = time.monotonic()
            count = probe.count()
            now = time.monotonic()
            if count is not None:
                answered_at = now
                self._update_count(count)
            pause_s = max(2.0, 50 * (now - began)) if count else min(pause_s * 1.5, 1.0)
            if self._wait(pause_s) or now - answered_at > _HUNG_S:
                self._restart_data_server()
                pause_s, answered_at = 0.02, time.monotonic()
            self._end_if_idle()
            if not self._records.path(self._order.reference).exists():
                self._end()  # the state folder was removed: no command could list or stop this board
            _truncate_log()

    def _update_count(self, count: int) -> None:
        if (now_noted := self._view.notes()) != self._view_notes:
            own = tuple(note for note in self._board.notes if note not in self._view_notes)
            self._view_notes = now_noted
            self._update(notes=own + now_noted)
        now = {
            "status": BoardStatus.RUNNING,
            "readiness": Readiness.READY if count else Readiness.LISTENING,
            "runs": count,
        }
        if any(getattr(self._board, name) != value for name, value in now.items()):
            self._update(**now)

    def _wait(self, pause_s: float) -> bool:
        """Whether the data server has ended within the pause."""
        if self._data_server is None:
            time.sleep(pause_s)
            return False
        return self._data_server.wait_for_end(pause_s)

    def _restart_data_server(self) -> None:
        """Start a new data server on the old one's port, to which TensorBoard reconnects by itself."""
        server = self._data_server
        if server is None:  # the slow loader reads in this very process: nothing to restart
            return
        now = time.monotonic()
        self._restarted_at = [moment for moment in self._restarted_at if now - moment < 60] + [now]
        server.kill()
        if len(self._restarted_at) > _MAX_RESTARTS:
            tail = self._records.log_tail(self._order.reference, lines=1)
            self._fail(
                StartFailure(f"TensorBoard's data server died {_MAX_RESTARTS} times within a minute: {tail}")
            )
        try:
            server.start()
            server.wait_for_port(deadline_s=20)
        except DataServerError as error:
            self._fail(StartFailure(f"TensorBoard's data server died and cannot be started again: {error}"))
        self._update(
            data_server=server.identity(),
            restarts=self._board.restarts + 1,
            readiness=Readiness.STARTING,
        )

    def _end_if_idle(self) -> None:
        timeout_s = self._order.idle_timeout_s
        if timeout_s is not None and self._host_check is not None and self._host_check.idle_s > timeout_s:
            with self._lock:
                self._update(
                    status=BoardStatus.STOPPED,
                    readiness=Readiness.STARTING,
                    url=None,
                    result=f"stopped after {timeout_s:g} s without a visit",
                    end_time=now_ms(),
                )
                self._leave(0)

    # --- ending

    def _end(self) -> NoReturn:
        """Remove everything of the board, which was stopped, and end this process."""
        self._lock.acquire(timeout=1)
        self._records.forget(self._board)
        self._leave(0)

    def _fail(self, failure: StartFailure) -> NoReturn:
        with self._lock:
            self._update(
                status=BoardStatus.FAILED,
                readiness=Readiness.STARTING,
                url=None,
                error=failure.error,
                hint=failure.hint or None,
                end_time=now_ms(),
            )
            self._leave(1)

    def _leave(self, status: int) -> NoReturn:
        """End at once: TensorBoard's own shutdown takes half a second, and has nothing to save."""
        if self._data_server is not None:
            self._data_server.kill()
        self._view.remove()
        owner_lock.release(self._order.root)
        os._exit(status)

    # --- reporting

    def _update(self, **changes: Any) -> None:
        """Write the changes to the record and the starter. A full disk must not end a board."""
        with self._lock:
            self._board = replace(self._board, timestamp=now_ms(), **changes)
            with contextlib.suppress(OSError):
                self._records.save(self._board)
            with contextlib.suppress(OSError):  # the starter has ended, or does not read
                os.write(self._report_fd, to_json(self._board.to_dict()))


def _keep_stdout_for_reports() -> int:
    """Return a descriptor of the pipe to the starter; what is printed from now on goes to the log."""
    report_fd = os.dup(1)
    os.dup2(2, 1)
    os.set_blocking(report_fd, False)
    return report_fd


def _max_files() -> int:
    """Return how many files a process may open after _lift_limits."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return hard if hard != resource.RLIM_INFINITY else 1 << 30


def _lift_limits() -> None:
    """Raise soft limits to the hard ones: they were meant for the algorithm or its shell."""
    for name in ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_NPROC"):
        with contextlib.suppress(OSError, ValueError):
            _, hard = resource.getrlimit(getattr(resource, name))
            resource.setrlimit(getattr(resource, name), (hard, hard))


def _check_port(port: int) -> None:
    """Raise OSError if the port is taken: werkzeug would print a page of text and end the process."""
    if port:
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(("127.0.0.1", port))


def _truncate_log() -> None:
    """Empty a log that is too large: a damaged event file adds a line with every reload."""
    with contextlib.suppress(OSError):
        if os.fstat(2).st_size > _LOG_LIMIT_BYTES:
            os.ftruncate(2, 0)  # opened for appending: the next line is the first
