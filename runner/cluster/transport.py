"""One HTTP request at a time, through a proxy where one is set; says whether a failed one may have arrived.

The standard library does it: http.client separates connecting from sending, which urllib.request and most
packages do not, and a job must not be submitted a second time after an answer that was lost. A connection
serves one request: a client that may send five a second gains nothing from keeping it.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import ClusterError
from .address import Cluster

CONNECT_TIMEOUT_S = 10.0
#: How long the server may be silent: a large pipeline is checked node by node before it is answered.
SILENCE_S = 60.0


class NotSent(Exception):
    """The server got nothing: there was no connection. The text says why."""


class AnswerLost(Exception):
    """The request was sent, perhaps only in part, and no whole answer came. The text says why."""


class Interrupted(Exception):
    """abort() was called: the request was ended, or not begun."""


class Body(NamedTuple):
    """The body of a request: `pieces()` begins anew for each attempt to send it."""

    length: int
    content_type: str
    pieces: Callable[[], Iterable[bytes]]


class HttpAnswer(NamedTuple):
    """A whole answer of the server, or of a proxy before it."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Transport:
    """Sends requests to one cluster."""

    def __init__(self, cluster: Cluster, *, silence_s: float = SILENCE_S) -> None:
        """Raises ClusterError if the file of certificates cannot be used."""
        self._target = urlsplit(cluster.url)
        self._silence_s = silence_s
        self._tls = _tls_context(cluster) if self._target.scheme == "https" else None
        self._proxy = _proxy_of(self._target)
        self._socket: socket.socket | None = None
        self._is_aborted = False

    def send(self, method: str, path: str, headers: Mapping[str, str], body: Body | None) -> HttpAnswer:
        """Return the answer, whatever its status is. `path` begins with a slash.

        Raises NotSent, AnswerLost, Interrupted, and ClusterError where no repetition can help.
        """
        connection = self._connect()
        try:
            with contextlib.closing(connection):
                about = {} if body is None else _headers_of(body)
                target = path if self._is_tunnelled() or self._proxy is None else self._absolute(path)
                connection.request(
                    method,
                    target,
                    body=None if body is None else body.pieces(),
                    headers={**self._proxy_headers(), **headers, **about, "Connection": "close"},
                )
                response = connection.getresponse()
                return HttpAnswer(response.status, response.headers, response.read())
        except (OSError, http.client.HTTPException) as error:
            if self._is_aborted:
                raise Interrupted from None
            raise AnswerLost(reason_of(error)) from None
        finally:
            self._socket = None

    def abort(self) -> None:
        """End the request that waits for an answer, from another thread, and every later one."""
        self._is_aborted = True
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # the other thread wakes up, and closes it

    def resume(self) -> None:
        """Allow requests again after abort()."""
        self._is_aborted = False

    def _connect(self) -> http.client.HTTPConnection:
        if self._is_aborted:
            raise Interrupted
        connection = self._new_connection()
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise ClusterError(
                f"the certificate of {self._target.netloc} is not trusted: {error.verify_message}; name the"
                " file of your certificate authority as 'ca' in clusters.yml, or in SSL_CERT_FILE"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NotSent(self._with_proxy(reason_of(error))) from None
        assert connection.sock is not None, "it is connected"
        connection.sock.settimeout(self._silence_s)
        self._socket = connection.sock
        return connection

    def _new_connection(self) -> http.client.HTTPConnection:
        place = self._target if self._proxy is None else self._proxy
        host, port = place.hostname, place.port
        assert host is not None, "both URLs were checked"
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)
        connection = http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_S, context=self._tls)
        if self._proxy is not None:
            connection.port = port or 80  # a proxy's port does not follow from the scheme of the target
            assert self._target.hostname is not None, "the URL was checked"
            connection.set_tunnel(
                self._target.hostname, self._target.port or 443, headers=_proxy_login(self._proxy)
            )
        return connection

    def _is_tunnelled(self) -> bool:
        return self._proxy is not None and self._tls is not None

    def _absolute(self, path: str) -> str:
        return f"http://{self._target.netloc}{path}"

    def _proxy_headers(self) -> dict[str, str]:
        """Return the headers for a proxy that reads the request itself, which one with a tunnel does not."""
        return {} if self._proxy is None or self._is_tunnelled() else _proxy_login(self._proxy)

    def _with_proxy(self, reason: str) -> str:
        return reason if self._proxy is None else f"{reason} (by the proxy {_shown(self._proxy)})"


def _headers_of(body: Body) -> dict[str, str]:
    return {"Content-Length": str(body.length), "Content-Type": body.content_type}


def _tls_context(cluster: Cluster) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cluster.ca)
    except OSError as error:  # ssl.SSLError is one
        raise ClusterError(f"{cluster.ca} has no certificates: {error.strerror or error}") from None
    if not cluster.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _proxy_of(target: SplitResult) -> SplitResult | None:
    """Return the proxy that the variables name for this URL, None if it is to be reached directly."""
    url = urllib.request.getproxies().get(target.scheme)
    if not url or urllib.request.proxy_bypass(target.netloc.rpartition("@")[2]):
        return None
    proxy = urlsplit(url if "://" in url else f"http://{url}")
    try:
        is_usable = proxy.scheme == "http" and bool(proxy.hostname) and proxy.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ClusterError(
            f"the proxy in {target.scheme}_proxy is not of the form http://host:port: {_shown(proxy)}; set"
            " no_proxy to go without it"
        )
    return proxy


def _proxy_login(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": "Basic " + base64.b64encode(login).decode()}


def _shown(proxy: SplitResult) -> str:
    return f"{proxy.scheme}://{proxy.netloc.rpartition('@')[2]}"  # without a password


def reason_of(error: Exception) -> str:
    """Return what went wrong on the network, as a clause of a sentence."""
    if isinstance(error, socket.gaierror):
        return "there is no host of this name"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)):
        return "the connection was closed before the answer"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was closed within the answer"
    if isinstance(error, http.client.BadStatusLine):
        return "the answer is not HTTP"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection: {error.reason or error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"{type(error).__name__}: {error}"
