"""The process of one board: TensorBoard, guarded and watched. Started by manager.py through start.py.

    starter --stdin--> this process        first line: the Order as JSON; then silence; EOF: it is gone
    starter <--stdout-- this process       one JSON line per change: the record, as in boards/<reference>.json
    this process --stdin--> data server    nothing; EOF: we are gone, and it ends
    this process <--gRPC--> data server    127.0.0.1
    visitors --HTTP--> this process        127.0.0.1, guard.py before TensorBoard's own application
    everybody <-- boards/<reference>.json  written by this process alone once it runs

Threads: the main thread starts everything, then looks at the board by HTTP as a visitor would, follows the
data server's life and writes the record; `owner` watches stdin and our parent; the rest are TensorBoard's.

Nobody is left behind whatever is killed: the data server ends with us by its stdin. We end with our starter
by EOF on stdin, or, should a fork of the starter hold that pipe open, by the change of our parent, looked at
every second. A detached board (`hkrunner board start`) has no such owner: it ends when it is asked to, or
when nobody has visited it for `idle_timeout_s`. A dead data server is started again, on the same port.

The order comes by stdin and not as an argument: arguments can be read by every user of the machine, and the
board's address is a secret.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import json
import mimetypes
import os
import resource
import signal
import socket
import sys
import threading
import time
import types
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from ..board_record import Board, BoardStatus, Order, Readiness, Records, now_ms
from ..end_with_owner import read_line, watch_owner
from ..runs.files import own_identity, to_json
from ..targets import count_tasks, task_depth
from .assets import Assets
from .data_server import DataServer, DataServerError, find_binary
from .host_check import PROBE_HEADER, Guard
from .optuna import CookieDoor, cookie, dashboard
from .start_failures import Failure, failure_of, too_little_memory

RELOAD_S = 2  # new points are seen after one to two seconds; the page itself asks when its user wants
SCALAR_POINTS = 10_000  # kept per curve; TensorBoard's own default is 1,000
_PROBE_TIMEOUT_S = 10.0
_HUNG_S = 20.0  # so long without a good answer, and the data server is taken for hung
_REVIVALS = 5  # within a minute; more, and the board has failed
_LOG_LIMIT_BYTES = 4 << 20


def main() -> NoReturn:
    """Serve the board that stdin orders, until it is stopped."""
    order = Order(**json.loads(read_line(0)))
    report_fd = _keep_stdout_for_reports()
    process = BoardProcess(order, report_fd)
    process.run()


class BoardProcess:
    """The board of this process."""

    def __init__(self, order: Order, report_fd: int) -> None:
        self._order = order
        self._records = Records(Path(order.root))
        board = self._records.read(order.reference)
        if board is None:  # stopped before we ran
            sys.exit(0)
        self._board: Board = replace(board, process=own_identity(), status=BoardStatus.CREATING)
        self._report_fd = report_fd
        self._lock = threading.RLock()
        self._data_server: DataServer | None = None
        self._guard: Guard | None = None
        self._revived_at: list[float] = []

    def run(self) -> NoReturn:
        """The whole life of the board."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._end())
        if self._board.is_attached:
            watch_owner(self._end)
        _lift_limits()
        self._change()
        if failure := too_little_memory():
            self._fail(failure)
        try:
            if self._order.optuna_storage is None:
                self._start_data_server()
                _check_port(self._order.port)
                probe = self._launch()
            else:
                _check_port(self._order.port)
                probe = self._launch_optuna(self._order.optuna_storage)
        except BaseException as error:  # noqa: BLE001 - whatever it is ends this process, with a sentence
            tail = self._records.log_tail(self._order.reference, lines=3)
            package = "tensorboard" if self._order.optuna_storage is None else "optuna-dashboard"
            self._fail(failure_of(error, package=package, port=self._order.port, log_tail=tail))
        self._supervise(probe)

    # --- starting

    def _start_data_server(self) -> None:
        """Before TensorBoard is imported: it reads the runs meanwhile."""
        try:
            server = DataServer(
                find_binary(),
                self._board.log_dir,
                # Not named by the reference, which is a secret: others can read the data server's arguments.
                port_file=self._records.folder / f".{os.getpid()}.port",
                reload_s=RELOAD_S,
                samples=SCALAR_POINTS,
            )
            server.start()
        except DataServerError as error:
            self._note_slow(error)
        else:
            self._data_server = server

    def _launch(self) -> Probe:
        """TensorBoard serves; return how to look at it."""
        if self._data_server is None:
            # The slow loader would import TensorFlow where it is installed: 3.5 s and 450 MB more.
            sys.modules["tensorboard.compat.notf"] = types.ModuleType("tensorboard.compat.notf")
        from tensorboard import program

        plugins, notes = _plugins()
        address = self._data_server_address()
        prefix = "/" + self._board.link.rstrip("/")
        assets = _assets()
        board = program.TensorBoard(
            plugins=plugins,
            assets_zip_provider=assets.pages if assets else None,
            server_class=self._server_class(prefix, assets),
        )
        board.configure(
            argv=("",),
            logdir=self._board.log_dir,
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
        self._change(
            url=url,
            version=importlib.metadata.version("tensorboard"),
            loader="fast" if self._data_server else "slow",
            data_server=self._data_server.identity() if self._data_server else None,
            notes=(*self._board.notes, *notes),
        )
        depth = task_depth(self._board.type, Path(self._board.log_dir))
        return Probe(url, "data/environment", "data/runs", depth=depth)

    def _launch_optuna(self, storage: str) -> Probe:
        """The dashboard of an optuna study serves; return how to look at it."""
        from werkzeug.serving import make_server

        prefix = "/" + self._board.link
        self._guard = Guard(CookieDoor(dashboard(storage), prefix), prefix)
        server = make_server("127.0.0.1", self._order.port, self._guard, threaded=True)
        threading.Thread(target=server.serve_forever, name="dashboard", daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        self._change(url=address + prefix, version=importlib.metadata.version("optuna-dashboard"))
        key = cookie(self._order.reference)
        return Probe(f"{address}/", "api/meta", "api/studies", cookie=key, name="study_summaries")

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

    def _server_class(self, prefix: str, assets: Assets | None) -> Callable[[Any, Any], Any]:
        from tensorboard import program

        def make(application: Any, flags: Any) -> Any:
            self._guard = Guard(assets.before(application, prefix) if assets else application, prefix)
            return program.WerkzeugServer(self._guard, flags)

        return make

    def _note_slow(self, error: DataServerError) -> None:
        self._board = replace(
            self._board, notes=(*self._board.notes, f"the fast loader cannot be used: {error}")
        )

    # --- serving

    def _supervise(self, probe: Probe) -> NoReturn:
        """Look at the board as a visitor does, for as long as it is wanted."""
        pause_s = 0.02
        answered_at = time.monotonic()
        while True:
            if self._board.status is not BoardStatus.RUNNING and probe.is_answered():
                self._change(status=BoardStatus.RUNNING, readiness=Readiness.LISTENING)
            began = time.monotonic()
            runs = probe.runs()
            now = time.monotonic()
            if runs is not None:
                answered_at = now
                self._saw(runs)
            pause_s = max(2.0, 50 * (now - began)) if runs else min(pause_s * 1.5, 1.0)
            if self._wait(pause_s) or now - answered_at > _HUNG_S:
                self._revive()
                pause_s, answered_at = 0.02, time.monotonic()
            self._expire()
            if not self._records.path(self._order.reference).exists():
                self._end()  # the state folder was removed: nobody could list or stop us any more
            _bound_log()

    def _saw(self, runs: int) -> None:
        now = {
            "status": BoardStatus.RUNNING,
            "readiness": Readiness.READY if runs else Readiness.LISTENING,
            "runs": runs,
        }
        if any(getattr(self._board, name) != value for name, value in now.items()):
            self._change(**now)

    def _wait(self, pause_s: float) -> bool:
        """True when the data server has died meanwhile."""
        if self._data_server is None:
            time.sleep(pause_s)
            return False
        return self._data_server.wait_for_death(pause_s)

    def _revive(self) -> None:
        """A new data server has the old one's port; TensorBoard connects to it by itself."""
        server = self._data_server
        if server is None:  # the slow loader reads in this very process: nothing to start anew
            return
        now = time.monotonic()
        self._revived_at = [moment for moment in self._revived_at if now - moment < 60] + [now]
        server.kill()
        if len(self._revived_at) > _REVIVALS:
            tail = self._records.log_tail(self._order.reference, lines=1)
            self._fail(Failure(f"TensorBoard's data server died {_REVIVALS} times within a minute: {tail}"))
        try:
            server.start()
            server.wait_for_port(deadline_s=20)
        except DataServerError as error:
            self._fail(Failure(f"TensorBoard's data server died and cannot be started again: {error}"))
        self._change(
            data_server=server.identity(),
            restarts=self._board.restarts + 1,
            readiness=Readiness.STARTING,
        )

    def _expire(self) -> None:
        timeout_s = self._order.idle_timeout_s
        if timeout_s is not None and self._guard is not None and self._guard.idle_s > timeout_s:
            with self._lock:
                self._change(
                    status=BoardStatus.STOPPED,
                    readiness=Readiness.STARTING,
                    url=None,
                    result=f"stopped after {timeout_s:g} s without a visit",
                    end_time=now_ms(),
                )
                self._leave(0)

    # --- ending

    def _end(self) -> NoReturn:
        """We were asked to stop: nothing of the board is left."""
        self._lock.acquire(timeout=1)
        self._records.forget(self._board)
        self._leave(0)

    def _fail(self, failure: Failure) -> NoReturn:
        with self._lock:
            self._change(
                status=BoardStatus.FAILED,
                readiness=Readiness.STARTING,
                url=None,
                error=failure.error,
                hint=failure.hint or None,
                end_time=now_ms(),
            )
            self._leave(1)

    def _leave(self, status: int) -> NoReturn:
        """End now: TensorBoard's own shutdown takes half a second, and has nothing to save."""
        if self._data_server is not None:
            self._data_server.kill()
        os._exit(status)

    # --- telling

    def _change(self, **changes: Any) -> None:
        """The record and the starter know of the change. A full disk must not end a board."""
        with self._lock:
            self._board = replace(self._board, timestamp=now_ms(), **changes)
            with contextlib.suppress(OSError):
                self._records.save(self._board)
            with contextlib.suppress(OSError):  # nobody listens any more, or nobody reads
                os.write(self._report_fd, to_json(self._board.to_dict()))


class Probe:
    """Our own look at a board, through its front door."""

    def __init__(
        self, url: str, sign: str, runs: str, *, cookie: str = "", name: str | None = None, depth: int = 0
    ) -> None:
        """Below url, sign answers once it listens; runs is the list of what it shows, or holds it by name.

        depth: without name, how many parts of what is listed name the task.
        """
        address, _, base = url.removeprefix("http://").partition("/")
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._sign, self._runs = f"/{base}{sign}", f"/{base}{runs}"
        self._headers = {PROBE_HEADER: "1", "Cookie": cookie}
        self._name = name
        self._depth = depth

    def is_answered(self) -> bool:
        """Whether visitors get an answer."""
        return self._get(self._sign) is not None

    def runs(self) -> int | None:
        """Of how many tasks (or studies) it shows something; None when it does not answer, or not well."""
        value = self._get(self._runs)
        try:
            return count_tasks(value, self._depth) if self._name is None else len(value[self._name])
        except (KeyError, TypeError, AttributeError):
            return None

    def _get(self, path: str) -> Any:
        """The JSON value at the path; None when there is none."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_PROBE_TIMEOUT_S)
        try:
            connection.request("GET", path, headers=self._headers)
            response = connection.getresponse()
            body = response.read()
            return json.loads(body) if response.status == 200 else None
        except (OSError, ValueError, http.client.HTTPException):
            return None
        finally:
            connection.close()


def _keep_stdout_for_reports() -> int:
    """Return a descriptor of the pipe to the starter; whatever prints from now on goes to the log."""
    report_fd = os.dup(1)
    os.dup2(2, 1)
    os.set_blocking(report_fd, False)
    return report_fd


def _lift_limits() -> None:
    """Limits that were meant for an algorithm, or came from its shell, do not hold for a board."""
    for name in ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_NPROC"):
        with contextlib.suppress(OSError, ValueError):
            _, hard = resource.getrlimit(getattr(resource, name))
            resource.setrlimit(getattr(resource, name), (hard, hard))


def _check_port(port: int) -> None:
    """Raise OSError if the port cannot be had: werkzeug would print a page and end the process."""
    if port:
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(("127.0.0.1", port))


def _plugins() -> tuple[list[Any], list[str]]:
    """TensorBoard's own plugins and the installed ones; one that does not load is noted and left out."""
    from tensorboard import default

    plugins, notes = list(default.get_static_plugins()), []
    for entry in importlib.metadata.entry_points(group="tensorboard_plugins"):
        try:
            plugins.append(entry.load())
        except Exception as error:  # noqa: BLE001 - a stranger's code; the board serves without it
            notes.append(f"the plugin {entry.name} does not load: {type(error).__name__}: {error}")
    return plugins, notes


def _assets() -> Assets | None:
    """TensorBoard's files; None where they lie elsewhere than they used to, and TensorBoard serves them."""
    try:
        from tensorboard.assets import get_default_assets_zip_provider

        provider = get_default_assets_zip_provider()
        # Types that a system's own table gets wrong (TensorBoard's program.py has the reports).
        mimetypes.add_type("text/javascript", ".js")
        mimetypes.add_type("font/woff2", ".woff2")
        return Assets(provider) if provider else None
    except (ImportError, OSError, zipfile.BadZipFile):
        return None


def _bound_log() -> None:
    """The log never fills a disk: a damaged event file makes a line with every reload."""
    with contextlib.suppress(OSError):
        if os.fstat(2).st_size > _LOG_LIMIT_BYTES:
            os.ftruncate(2, 0)  # opened for appending: the next line is the first
