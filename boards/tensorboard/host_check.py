"""The WSGI application in front of TensorBoard, which itself would answer to any Host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
PROBE_HEADER = "X-Hkrunner-Probe"  # requests of board_probe.py do not count as visits
_PROBE_KEY = "HTTP_" + PROBE_HEADER.upper().replace("-", "_")  # as WSGI names it (PEP 3333)


def is_local_host(header: str) -> bool:
    """Whether a Host header names this machine's own loopback.

    Without this check any web page could read a board by letting its own name resolve to 127.0.0.1 (DNS
    rebinding).
    """
    host = header.strip().lower()
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return host in LOCAL_HOSTS


class HostCheck:
    """Passes requests on that were sent to a loopback name, and notes when the last visitor came."""

    def __init__(self, application: Application, prefix: str) -> None:
        self._application = application
        self._prefix = prefix
        self._visited_at = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since a visitor's last request, or since the start."""
        return time.monotonic() - self._visited_at

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not is_local_host(environ.get("HTTP_HOST", "")):
            return refuse(start_response)
        if _PROBE_KEY not in environ:
            self._visited_at = time.monotonic()
        path = environ.get("PATH_INFO", "")
        # TensorBoard's page asks for its fonts at the root, whatever the prefix is.
        if path.startswith("/font-roboto/"):
            environ["PATH_INFO"] = self._prefix + path
        return self._application(environ, start_response)


def refuse(
    start_response: StartResponse,
    body: bytes = b"This board answers to 127.0.0.1 and localhost only. Open it by one of these names.\n",
) -> Iterable[bytes]:
    """Answer 403 with this text."""
    start_response("403 Forbidden", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
