"""HKube's board routes over HTTP, on the loopback: `hkrunner boards serve`, and alongside a run (--api-port).

serve() is the whole command. A running hkrunner has one thread and must not wait for a visitor, so
RestProcess runs the same in a process of its own, which ends at EOF on its stdin or when its parent changes.
Boards that are started through these routes are attached to the process that serves them.

Each connection has a thread, so that a slow client delays no other; the routes themselves run one at a time.
A Host that is not a loopback name is refused, and a body counts only when it is sent as application/json,
which a browser does not let a foreign page send: no web page can start or stop boards.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from .board_record import BoardRecords
from .end_with_owner import read_line, watch_owner
from .errors import BoardError
from .manager import BoardManager
from .rest_routes import BoardRoutes, Response, RouteError
from .runs.files import read_json_bytes, to_json
from .spawn import spawn
from .tensorboard.host_check import is_local_host

_BODY_LIMIT_BYTES = 1 << 20
_CLIENT_TIMEOUT_S = 30.0
# Bounds on reading a refused body to its end, see _RequestHandler._drain.
_DRAIN_LIMIT_BYTES = 64 << 20
_DRAIN_S = 5.0


class RestServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """The routes on 127.0.0.1; `url` is their base."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, manager: BoardManager, *, port: int = 0) -> None:
        """Listen; serve_forever() answers requests. Raises BoardError when the port is not available."""
        self.manager = manager
        self.routes = BoardRoutes(manager)
        self.lock = threading.Lock()  # held while a route runs
        try:
            super().__init__(("127.0.0.1", port), _RequestHandler)
        except (OSError, OverflowError) as error:
            raise BoardError(
                f"the board routes cannot listen on port {port}: {getattr(error, 'strerror', None) or error}",
                hint="choose another port, or 0 for a free one",
            ) from error
        self.url = f"http://127.0.0.1:{self.server_port}/api/v1/boards"

    def service_actions(self) -> None:
        """Reap boards that have ended; called twice a second, also without a request."""
        with self.lock:
            self.manager.poll()


class _RequestHandler(http.server.BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"
    timeout = _CLIENT_TIMEOUT_S
    server_version = "hkrunner"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def handle_expect_100(self) -> bool:
        """Refuse a request at once whose client asks before it sends the body (RFC 9110, 10.1.1)."""
        try:
            self._check_headers()
        except RouteError as error:
            self.close_connection = True
            self._send(error.response())
            return False
        return super().handle_expect_100()

    def _answer(self) -> None:
        """Answer the request."""
        try:
            length = self._check_headers()
        except RouteError as error:
            self.close_connection = True
            self._send(error.response())
            self._drain()
            return
        try:
            body = self.rfile.read(length)
            is_json = self.headers.get_content_type() == "application/json"
            path = self.path.partition("?")[0]
            with self.server.lock:
                response = self.server.routes.handle(self.command, path, body if is_json else None)
        except Exception as error:  # noqa: BLE001 - one bad request must not end the routes
            self.log_error("%s", f"{type(error).__name__}: {error}")
            self.close_connection = True
            response = RouteError(500, "Internal Server Error").response()
        self._send(response)

    def _check_headers(self) -> int:
        """Return the length of the body. Raises RouteError for a request that is refused unread."""
        if not is_local_host(self.headers.get("Host", "")):
            raise RouteError(403, "these routes answer to 127.0.0.1 and localhost only")
        if self.headers.get("Transfer-Encoding"):
            raise RouteError(411, "send the body with its Content-Length")
        text = self.headers.get("Content-Length") or "0"
        if not (text.isascii() and text.isdigit()):
            raise RouteError(400, "Content-Length is not a number")
        if len(text) > 18 or int(text) > _BODY_LIMIT_BYTES:
            raise RouteError(413, "request entity too large")
        return int(text)

    def _drain(self) -> None:
        """Read and drop the rest of the body, within bounds, so that the client can read the answer.

        Closing a socket with unread bytes resets the connection, and a client that sends its whole body
        first, as most do, would see the reset instead of the answer (RFC 9112, 9.6).
        """
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            left, end = _DRAIN_LIMIT_BYTES, time.monotonic() + _DRAIN_S
            while left > 0 and (left_s := end - time.monotonic()) > 0:
                self.connection.settimeout(left_s)
                data = self.connection.recv(min(left, 1 << 16))
                if not data:
                    return
                left -= len(data)

    def _send(self, response: Response) -> None:
        body = json.dumps(response.body).encode()
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        with contextlib.suppress(OSError):  # the client has gone
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log errors only."""

    def log_error(self, format: str, *args: object) -> None:
        print(f"board routes: {self.requestline}: {format % args}", file=sys.stderr)


def serve(root: Path, *, port: int = 0, on_listening: Callable[[str], None]) -> None:
    """Answer HKube's board routes until SIGINT or SIGTERM, then end the boards that they started.

    on_listening: called with the base address. Raises BoardError when the port is not available. Runs in the
    main thread of a process that does nothing else.
    """
    manager = BoardManager(root, attached=True)
    with RestServer(manager, port=port) as server:

        def request_shutdown(*_: object) -> None:
            threading.Thread(target=server.shutdown, daemon=True).start()

        before = {
            number: signal.signal(number, request_shutdown) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            on_listening(server.url)
            server.serve_forever()
        finally:
            manager.close()
            manager.wait_for_end()
            for number, handler in before.items():
                signal.signal(number, handler)


class RestProcess:
    """The routes alongside a running hkrunner, in a process of their own. Only stop() waits."""

    def __init__(self, root: Path, *, port: int = 0) -> None:
        """Start the process; poll() reads its address. Raises BoardError."""
        records = BoardRecords(Path(os.path.abspath(root)))
        self.url: str | None = None
        self.error: str | None = None
        self._unread = b""  # the beginning of a line that is not complete yet
        try:
            records.make_folder()
            order = to_json({"root": str(records.folder.parent), "port": port})
            self._process = spawn("rest", order, records.folder / "rest.log")
        except OSError as error:
            raise BoardError(f"the board routes cannot be started: {error.strerror or error}") from error

    def fileno(self) -> int:
        """Return the descriptor that is readable when poll() has something to read."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def poll(self) -> bool:
        """Read the reports, which may set `url` or `error`. False once the process has ended; never waits."""
        if self._process.stdout is not None and not self._process.stdout.closed:
            with contextlib.suppress(BlockingIOError):
                self._unread += os.read(self._process.stdout.fileno(), 1 << 16)
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            report = read_json_bytes(line) or {}
            self.url = str(report["url"]) if "url" in report else self.url
            self.error = str(report["error"]) if "error" in report else self.error
        if self._process.poll() is None:
            return True
        self.url = None
        self.error = self.error or f"the process of the board routes ended with {self._process.returncode}"
        return False

    def stop(self, *, deadline_s: float = 10.0) -> None:
        """End the process and its boards, and reap it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its boards end with it
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def main() -> NoReturn:
    """Run in the process of RestProcess: serve what the first line of stdin orders, until stdin ends."""
    order = json.loads(read_line(0))
    report_fd = os.dup(1)
    os.dup2(2, 1)  # what a library prints goes to the log
    watch_owner(lambda: os.kill(os.getpid(), signal.SIGTERM))

    def report(values: dict[str, object]) -> None:
        with contextlib.suppress(OSError):
            os.write(report_fd, to_json(values))

    try:
        serve(Path(order["root"]), port=order["port"], on_listening=lambda url: report({"url": url}))
    except BoardError as error:
        report({"error": str(error)})
        sys.exit(1)
    sys.exit(0)
