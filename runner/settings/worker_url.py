"""The URL of HKube's worker, with the query that the worker reads on the first connection."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit

from ..errors import SettingsError

DEFAULT_URL = "ws://localhost:3000"
_SOCKETIO_SCHEMES = {"http": "ws", "https": "wss"}
_LOGIN = re.compile(r"(?<=://)[^/?#]*@")
#: The same in an address that cannot be taken apart: a password may have a slash.
_LOGIN_OF_ANY = re.compile(r"(?<=://).*@", re.DOTALL)
_PARTS = ("WORKER_SOCKET_PROTOCOL", "WORKER_SOCKET_HOST", "WORKER_SOCKET_PORT")


def worker_url(
    url: str | None,
    environ: Mapping[str, str],
    encoding: str,
    *,
    storage: str = "v1",
    hostname: bool = False,
    socketio: bool = False,
) -> str:
    """Return the worker's URL, complete.

    `url` (--url, else WORKER_SOCKET_URL), else WORKER_SOCKET_PROTOCOL, _HOST and _PORT, else
    ws://localhost:3000. `hostname` adds this machine's name, which the worker wants for redirected logs.
    `socketio`: the URL may begin with http: too, and gets the path of socket.io if it has none. Raises
    SettingsError.
    """
    sources = ["WORKER_SOCKET_URL"] if url and url == environ.get("WORKER_SOCKET_URL") else []
    if not url:
        sources = [name for name in _PARTS if environ.get(name)]
        protocol, host, port = (environ.get(name) or "" for name in _PARTS)
        url = f"{protocol or 'ws'}://{host or '127.0.0.1'}:{port or '3000'}" if sources else DEFAULT_URL
    where = f" (set by {', '.join(sources)})" if sources else ""
    shown = _LOGIN_OF_ANY.sub("****@", url)
    try:
        parts = urlsplit(url)
        port_number = parts.port
    except ValueError as error:
        # The error quotes a part of the URL, which may be one of the password.
        why = error if shown == url else "what a name or a password has of /?#[]@: is written as %2F, %3F, …"
        raise SettingsError(f"the worker's URL {shown!r} is wrong: {why}{where}") from None
    scheme = _SOCKETIO_SCHEMES.get(parts.scheme, parts.scheme) if socketio else parts.scheme
    if scheme not in ("ws", "wss") or not parts.hostname or port_number == 0:
        raise SettingsError(f"the worker's URL must look like {DEFAULT_URL}, not {shown!r}{where}")
    present = dict(parse_qsl(parts.query, keep_blank_values=True))
    if present.get("storage", storage) != storage:
        raise SettingsError(
            f"the worker's URL says storage={present['storage']}, and --storage is {storage}: make them the"
            f" same{where}"
        )
    wanted = {"EIO": "3", "transport": "websocket"} if socketio else {}
    wanted |= {"storage": storage, "encoding": encoding}
    if hostname:
        wanted["hostname"] = quote(os.uname().nodename, safe="")
    added = [f"{name}={value}" for name, value in wanted.items() if name not in present]
    path = parts.path
    if socketio:
        path = path if path.strip("/") else "/socket.io/"
    query = "&".join([parts.query, *added] if parts.query else added)
    return f"{scheme}://{parts.netloc}{path}?{query}"


def without_login(url: str) -> str:
    """Return the worker's URL as it may be shown: with **** for a name and a password."""
    return _LOGIN.sub("****@", url)
