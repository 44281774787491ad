"""Connecting to a worker: the one thing that blocks, and so is done in a short-lived thread.

websocket-client does it: names, proxies, TLS, handshake. Each of these can take seconds. The thread hands the
connected socket over and ends.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import importlib.util
import socket
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ..io.loop import Loop
from ..protocol.messages import printable
from .identity import listener_of, listening_at, port_of

CONNECT_TIMEOUT_S = 10.0
#: What hashlib needs when OpenSSL is not there; an interpreter may be built without them.
_HASHES = ("_md5", "_sha1", "_blake2", "_sha3", "_sha2" if sys.version_info >= (3, 12) else "_sha256")


class Attempt:
    """One try to connect, begun when it is made."""

    def __init__(
        self, loop: Loop, url: str, connected: Callable[[Any], None], failed: Callable[[str], None]
    ) -> None:
        """Later, in the loop: connected(the package's client), or failed(why, for a user); neither after
        give_up()."""
        self._loop = loop
        self._url = url
        self._connected = connected
        self._failed = failed
        self._client: Any = None
        self._is_over = False
        #: The number of the listening socket that took the connection, once there is one; see Identity.
        self.listener: int | None = None
        threading.Thread(target=self._run, name="hkrunner-connect", daemon=True).start()

    @property
    def has_socket(self) -> bool:
        """Somebody is connected, and has to answer the handshake."""
        return getattr(self._client, "sock", None) is not None

    def give_up(self) -> None:
        """It has taken too long. Its socket, if it has one by now, is of no use to anybody any more."""
        self._is_over = True
        sock = getattr(self._client, "sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # the thread wakes up, and closes it

    def _run(self) -> None:
        """Connect, and hand the result over. The one piece of code that runs outside the loop."""
        try:
            port = port_of(self._url)
            before = listening_at(port)
            self._connect()
            self.listener = listener_of(self._client.sock, port, before)
        except Exception as error:  # noqa: BLE001 - the package's own errors, OSError, ssl, idna: all mean "not connected"
            reason = reason_of(error)
            self._loop.post_from_thread(lambda: self._tell(self._failed, reason))
        else:
            self._loop.post_from_thread(lambda: self._tell(self._connected, self._client))

    def _tell(self, callback: Callable[[Any], None], what: Any) -> None:
        if not self._is_over:
            callback(what)
        elif self._client is not None:
            self._client.shutdown()

    def _connect(self) -> None:
        """Have a connected client; raises whatever the package raises."""
        with contextlib.nullcontext() if self._url.startswith("wss:") else _without_openssl():
            import websocket
        try:
            self._connect_with(websocket)
            return
        except websocket.WebSocketException as error:
            if "SSL not available" not in str(error):
                raise
        # A ws:// address that redirects to wss://: the package once more, whole.
        for name in [one for one in sys.modules if one.partition(".")[0] == "websocket"]:
            del sys.modules[name]
        import websocket

        self._connect_with(websocket)

    def _connect_with(self, package: Any) -> None:
        self._client = package.WebSocket(skip_utf8_validation=True, enable_multithread=False)
        self._client.connect(self._url, timeout=CONNECT_TIMEOUT_S)


@contextlib.contextmanager
def _without_openssl() -> Iterator[None]:
    """The package is imported as by an interpreter that was built without OpenSSL, a case that it knows.

    What ws:// needs is SHA-1, which hashlib then has from the interpreter itself: 5 MB less for as long as
    we live, and 6 ms less until we are connected.
    """
    withheld = [name for name in ("ssl", "_hashlib") if name not in sys.modules]
    if not all(map(importlib.util.find_spec, _HASHES)):
        withheld = []  # hashlib logs an error for each that it has from nobody
    sys.modules.update(dict.fromkeys(withheld))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in withheld:
            del sys.modules[name]


def all_has_arrived(sock: socket.socket | None) -> bool:
    """The peer's machine has taken every byte that was written; True where that cannot be told."""
    left = array.array("i", [0])
    try:
        if sock is not None:
            fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, left)
    except OSError:
        return True
    return left[0] == 0


def watch_peer(sock: socket.socket) -> None:
    """Have the kernel notice a peer that fell silent: no frame of ours is allowed to ask it first."""
    with contextlib.suppress(OSError, AttributeError):  # not TCP, or a kernel without the option
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)


def reason_of(error: BaseException) -> str:
    """Return what went wrong in a few words for a user."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return f"the host name is not known ({error.strerror})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    # A refused handshake is told with all its headers, behind this mark.
    text = printable(str(error).partition("\n")[0].partition(" -+-+- ")[0])
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
