"""HKube's board routes over HTTP, on the loopback: `hkrunner boards serve`, and beside a running hkrunner.

serve() is the whole of the command. ApiProcess is for a running hkrunner, which has one thread and must not
wait for a visitor: the same in a process of its own, ended by EOF on its stdin or by the change of its
parent. Boards that are started by way of these routes are attached to the process that serves them.

Each connection has a thread, so that a slow client holds up nobody else; the routes themselves take turns.
A Host that is not a loopback name is refused, and a body counts only when it is sent as application/json,
which a browser does not let a foreign page send: so no web page starts or stops boards.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from .end_with_owner import read_line, watch_owner
from .errors import BoardError
from .manager import BoardManager, spawn
from .rest_routes import ApiError, BoardsApi, Response
from .runs.files import read_json_bytes, to_json
from .tensorboard.host_check import is_local_host

_BODY_LIMIT_BYTES = 1 << 20
_CLIENT_TIMEOUT_S = 30.0


class ApiServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """The routes on 127.0.0.1; `url` is their base."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, manager: BoardManager, *, port: int = 0) -> None:
        """It listens; serve_forever() answers. Raises BoardError when the port cannot be had."""
        self.manager = manager
        self.api = BoardsApi(manager)
        self.turn = threading.Lock()
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise BoardError(
                f"the board routes cannot listen on port {port}: {getattr(error, 'strerror', None) or error}",
                hint="choose another port, or 0 for a free one",
            ) from error
        self.url = f"http://127.0.0.1:{self.server_port}/api/v1/boards"

    def service_actions(self) -> None:
        """Called twice a second: boards that ended are reaped, also when nobody asks."""
        with self.turn:
            self.manager.poll()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: ApiServer
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

    def _answer(self) -> None:
        try:
            if not is_local_host(self.headers.get("Host", "")):
                raise ApiError(403, "these routes answer to 127.0.0.1 and localhost only")
            body = self._body()
            path = self.path.partition("?")[0]
            with self.server.turn:
                response = self.server.api.handle(self.command, path, body)
        except ApiError as error:
            self.close_connection = True  # a body may lie unread
            response = error.response()
        except Exception as error:  # noqa: BLE001 - one bad request must not end the routes
            self.log_error("%s", f"{type(error).__name__}: {error}")
            self.close_connection = True
            response = ApiError(500, "Internal Server Error").response()
        self._send(response)

    def _body(self) -> bytes | None:
        if self.headers.get("Transfer-Encoding"):
            raise ApiError(411, "send the body with its Content-Length")
        try:
            length = int(self.headers.get("Content-Length") or 0)
        except ValueError as error:
            raise ApiError(400, "Content-Length is not a number") from error
        if not 0 <= length <= _BODY_LIMIT_BYTES:
            raise ApiError(413, "request entity too large")
        body = self.rfile.read(length)
        return body if self.headers.get_content_type() == "application/json" else None

    def _send(self, response: Response) -> None:
        body = json.dumps(response.body).encode()
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Only errors are worth a line."""

    def log_error(self, format: str, *args: object) -> None:
        print(f"board routes: {self.requestline}: {format % args}", file=sys.stderr)


def serve(root: Path, *, port: int = 0, on_listening: Callable[[str], None]) -> None:
    """Answer HKube's board routes until SIGINT or SIGTERM; boards started by them have ended then.

    on_listening is called with the base address. Raises BoardError when the port cannot be had. For the main
    thread of a process that does nothing else.
    """
    manager = BoardManager(root, attached=True)
    with ApiServer(manager, port=port) as server:

        def ask_to_end(*_: object) -> None:
            threading.Thread(target=server.shutdown, daemon=True).start()

        before = {number: signal.signal(number, ask_to_end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            on_listening(server.url)
            server.serve_forever()
        finally:
            manager.close()
            manager.wait_for_end()
            for number, handler in before.items():
                signal.signal(number, handler)


class ApiProcess:
    """The routes beside a running hkrunner, in a process of their own. Nothing here waits but stop()."""

    def __init__(self, root: Path, *, port: int = 0) -> None:
        """The process is being started; poll() will know its address. Raises BoardError."""
        manager = BoardManager(root)
        self.url: str | None = None
        self.error: str | None = None
        self._rest = b""
        try:
            manager.records.make_folder()
            self._process: subprocess.Popen[bytes] = spawn(
                "rest",
                to_json({"root": str(manager.root), "port": port}),
                manager.records.folder / "rest.log",
            )
        except OSError as error:
            raise BoardError(f"the board routes cannot be started: {error.strerror or error}") from error

    def fileno(self) -> int:
        """Readable when poll() has news: the address, or the end of the process."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def poll(self) -> bool:
        """Take the news: `url` or `error` may be set now. False once the process has ended; never waits."""
        if self._process.stdout is not None and not self._process.stdout.closed:
            with contextlib.suppress(BlockingIOError):
                self._rest += os.read(self._process.stdout.fileno(), 1 << 16)
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            news = read_json_bytes(line) or {}
            self.url = str(news["url"]) if "url" in news else self.url
            self.error = str(news["error"]) if "error" in news else self.error
        if self._process.poll() is None:
            return True
        self.url = None
        self.error = self.error or f"the process of the board routes ended with {self._process.returncode}"
        return False

    def close(self) -> None:
        """It is asked to end, and its boards with it; stop() waits for that."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def stop(self, *, deadline_s: float = 10.0) -> None:
        """It has ended and is reaped, and so are its boards."""
        self.close()
        try:
            self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its boards end with it
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def main() -> NoReturn:
    """The process of ApiProcess: started through start.py, ordered by the first line of stdin."""
    order = json.loads(read_line(0))
    reports = os.dup(1)
    os.dup2(2, 1)
    watch_owner(lambda: os.kill(os.getpid(), signal.SIGTERM))

    def report(news: dict[str, object]) -> None:
        with contextlib.suppress(OSError):
            os.write(reports, to_json(news))

    try:
        serve(Path(order["root"]), port=order["port"], on_listening=lambda url: report({"url": url}))
    except BoardError as error:
        report({"error": str(error)})
        sys.exit(1)
    sys.exit(0)
