"""Connecting to a worker: the one thing that blocks, and so is done in a short-lived thread.

websocket-client does it: names, proxies, TLS, handshake. Each of these can take seconds. The thread hands the
connected socket over and ends.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from .loop import Loop

CONNECT_TIMEOUT_S = 10.0


def connect(loop: Loop, url: str, *, connected: Callable[[Any], None], failed: Callable[[str], None]) -> None:
    """Begin to connect. Later, in the loop: connected(the package's client), or failed(why, for a user)."""
    threading.Thread(
        target=_in_thread, args=(loop, url, connected, failed), name="hkrunner-connect", daemon=True
    ).start()


def _in_thread(loop: Loop, url: str, connected: Callable[[Any], None], failed: Callable[[str], None]) -> None:
    """Connect, and hand the result over. The one piece of code that runs outside the loop."""
    try:
        client = _client(url)
    except Exception as error:  # noqa: BLE001 - the package's own errors, OSError, ssl, idna: all mean "not connected"
        reason = reason_of(error)
        loop.post_from_thread(lambda: failed(reason))
    else:
        loop.post_from_thread(lambda: connected(client))


def _client(url: str) -> Any:
    """Return the package's connected client; raises whatever it raises."""
    with contextlib.nullcontext() if url.startswith("wss:") else _without_openssl():
        import websocket
    options: dict[str, Any] = {
        "timeout": CONNECT_TIMEOUT_S,
        "skip_utf8_validation": True,
        "enable_multithread": False,
    }
    try:
        return websocket.create_connection(url, **options)
    except websocket.WebSocketException as error:
        if "SSL not available" not in str(error):
            raise
    # A ws:// address that redirects to wss://: the package once more, whole.
    for name in [one for one in sys.modules if one.partition(".")[0] == "websocket"]:
        del sys.modules[name]
    import websocket

    return websocket.create_connection(url, **options)


@contextlib.contextmanager
def _without_openssl() -> Iterator[None]:
    """The package is imported as by an interpreter that was built without OpenSSL, a case that it knows.

    What ws:// needs is SHA-1, which hashlib then has from the interpreter itself: 5 MB less for as long as
    we live, and 6 ms less until we are connected.
    """
    withheld = [name for name in ("ssl", "_hashlib") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(withheld))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in withheld:
            del sys.modules[name]


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
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
