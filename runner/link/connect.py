"""Connects to a worker in a short-lived thread, because connecting blocks.

websocket-client does the work: names, proxies, TLS, handshake. Each of these can take seconds. The thread
passes the connected socket to the loop and ends.
"""

from __future__ import annotations

import _thread
import array
import contextlib
import fcntl
import socket
import sys
import termios
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from ..io.lean_imports import without_openssl
from ..io.loop import Loop
from ..io.this_machine import is_this_machine
from ..protocol.messages import printable
from .frames import Refused
from .identity import listener_of, listening_at, port_of

CONNECT_TIMEOUT_S = 10.0
#: Has the package ignore the proxy of the environment, which it takes for this machine's own addresses too.
#: It reads the second of these only where there is the first.
_DIRECT: dict[str, Any] = {"http_proxy_host": "none", "http_no_proxy": ["*"]}


class Attempt:
    """One attempt to connect, which begins at once."""

    def __init__(
        self,
        loop: Loop,
        url: str,
        connected: Callable[[Any], None],
        failed: Callable[[str], None],
        greet: Callable[[socket.socket], None] | None = None,
    ) -> None:
        """Later, in the loop, call connected(client of the package) or failed(reason for a user); neither
        after give_up(). Raises RuntimeError where no thread can be started.

        `greet`, called in the thread, receives what has to come first on a new connection.
        """
        self._loop = loop
        self._url = url
        self._connected = connected
        self._failed = failed
        self._greet = greet
        self._client: Any = None
        self._is_over = False
        #: The number of the listening socket that took the connection, once there is one; see Identity.
        self.listener: int | None = None
        # Not threading's: what a harness has set there for all threads (a profile or trace function) may
        # raise before ours begins, and nothing would be told.
        _thread.start_new_thread(self._run, ())

    @property
    def has_socket(self) -> bool:
        """Whether a peer is connected, which has to answer the handshake."""
        return getattr(self._client, "sock", None) is not None

    def give_up(self) -> None:
        """End the attempt: it has taken too long. Its socket, if it has one by now, is closed."""
        self._is_over = True
        sock = getattr(self._client, "sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # the thread wakes up, and closes it

    def _run(self) -> None:
        """Connect, and pass the result to the loop. This runs in the thread."""
        try:
            port = port_of(self._url)
            before = listening_at(port)
            self._connect()
            self.listener = listener_of(self._client.sock, port, before)
            if self._greet is not None:
                self._greet(self._client.sock)
        except Exception as error:  # noqa: BLE001 - the package's own errors, OSError, ssl, idna: all mean "not connected"
            reason = reason_of(error)
            if self.has_socket:
                self._client.shutdown()
            self._loop.post_from_thread(lambda: self._tell(self._failed, reason))
        else:
            self._loop.post_from_thread(lambda: self._tell(self._connected, self._client))

    def _tell(self, callback: Callable[[Any], None], what: Any) -> None:
        if not self._is_over:
            callback(what)
        elif self._client is not None:
            self._client.shutdown()

    def _connect(self) -> None:
        """Connect the client. Raises whatever the package raises."""
        if not self._url.startswith("wss:"):
            preload()
        import websocket

        try:
            self._connect_with(websocket)
            return
        except websocket.WebSocketException as error:
            if "SSL not available" not in str(error):
                raise
        # A ws:// address redirects to wss://: import the package again, with TLS.
        for name in [one for one in sys.modules if one.partition(".")[0] == "websocket"]:
            del sys.modules[name]
        import websocket

        self._connect_with(websocket)

    def _connect_with(self, package: Any) -> None:
        self._client = package.WebSocket(skip_utf8_validation=True, enable_multithread=False)
        direct = _DIRECT if is_this_machine(urlsplit(self._url).hostname) else {}
        self._client.connect(self._url, timeout=CONNECT_TIMEOUT_S, **direct)


def preload() -> None:
    """Import the package as ws:// needs it; the next attempt then connects 5 ms sooner."""
    with without_openssl():
        # The system's names are encoded by idna. Where no memory is left, its import in the thread would make
        # a LookupError of that, and the attempt be repeated for ever.
        import encodings.idna  # noqa: F401

        import websocket  # noqa: F401


def all_has_arrived(sock: socket.socket | None) -> bool:
    """Return whether the peer's machine has received every byte that was written; True if unknown."""
    left = array.array("i", [0])
    try:
        if sock is not None:
            fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, left)
    except OSError:
        return True
    return left[0] == 0


def watch_peer(sock: socket.socket) -> None:
    """Have the kernel notice a peer that has vanished: neither HKube's worker nor we send pings."""
    with contextlib.suppress(OSError, AttributeError):  # not TCP, or a kernel without the option
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)


def reason_of(error: BaseException) -> str:
    """Return what went wrong in a few words for a user."""
    if isinstance(error.__context__, socket.gaierror):
        error = error.__context__  # which the package wraps
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return f"the host name is not known ({error.strerror})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    # The package puts all headers of a refused handshake behind this mark.
    text = printable(str(error).partition("\n")[0].partition(" -+-+- ")[0])
    if text.startswith("Handshake status"):
        return f"what answers there is no worker ({text.lower()})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
