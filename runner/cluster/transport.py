"""One HTTP request at a time, through a proxy where one is set; says whether a failed one may have arrived.

The standard library does it: http.client separates connecting from sending, which urllib.request and most
packages do not, and a job must not be submitted a second time after an answer that was lost. A connection
serves one request: a client that may send five a second gains nothing from keeping it.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import ClusterError
from ..io.this_machine import is_this_machine
from ..protocol.messages import printable
from .address import Cluster

CONNECT_TIMEOUT_S = 10.0
#: How long the server may be silent: a large pipeline is checked node by node before it is answered.
SILENCE_S = 60.0
#: Bytes that an answer has to bring in each SILENCE_S, or be whole: a server that sends one byte a minute is
#: never silent, and never done.
LEAST_BYTES = 64 * 1024
#: Bytes of an answer that are taken at most, where the caller does not expect more.
ANSWER_MAX = 64 * 1024 * 1024
#: Bytes that are read of an answer that refuses: enough for its text.
REFUSAL_MAX = 256 * 1024
_PIECE = 64 * 1024


class NotSent(Exception):
    """The server got nothing: there was no connection. The text says why."""


class AnswerLost(ClusterError):
    """The request was sent, perhaps only in part, and no whole answer came. The text says why."""


class Interrupted(Exception):
    """abort() was called: the request was ended, or not begun."""


class Body(NamedTuple):
    """The body of a request: `pieces()` starts at the beginning again for each attempt to send it."""

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

    def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Body | None,
        *,
        most: int = ANSWER_MAX,
    ) -> HttpAnswer:
        """Return the answer, whatever its status is. `path` begins with a slash; `most`: bytes of the answer.

        Raises NotSent, AnswerLost, Interrupted, and HkrunnerError where no repetition can help.
        """
        connection = self._connect()
        try:
            with contextlib.closing(connection):
                about = {} if body is None else _headers_of(body)
                target = path if self._is_tunnelled() or self._proxy is None else self._absolute(path)
                # A server that refuses a large body answers before it has all of it, and closes.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(
                        method,
                        target,
                        body=None if body is None else body.pieces(),
                        headers={**self._proxy_headers(), **headers, **about, "Connection": "close"},
                    )
                with _Watch(connection, self._silence_s) as watch:
                    return self._answer(connection, watch, most)
        except (OSError, http.client.HTTPException) as error:
            if self._is_aborted:
                raise Interrupted from None
            raise AnswerLost(reason_of(error)) from None
        finally:
            self._socket = None

    def _answer(self, connection: http.client.HTTPConnection, watch: _Watch, most: int) -> HttpAnswer:
        """Return the whole answer. An end of the connection may be its end, or one that we have made."""
        answer = None
        lost = "the connection was closed within the answer"
        try:
            answer = self._read(connection, watch, most)
        except (OSError, http.client.HTTPException) as error:
            lost = reason_of(error)
        if self._is_aborted:
            raise Interrupted
        if watch.has_cut:
            raise AnswerLost("the answer comes too slowly")
        if answer is None:
            raise AnswerLost(lost)
        return answer

    def _read(self, connection: http.client.HTTPConnection, watch: _Watch, most: int) -> HttpAnswer | None:
        """Return the answer, None if the server has ended it too early."""
        response = connection.getresponse()
        if response.status >= 400:
            return HttpAnswer(response.status, response.headers, response.read(REFUSAL_MAX))
        watch.received(LEAST_BYTES)
        body = io.BytesIO()
        while piece := response.read1(_PIECE):
            watch.received(len(piece))
            body.write(piece)
            if body.tell() > most:
                raise ClusterError(
                    f"{self._target.netloc} answers with more than {most // 2**20} MiB, which is too much"
                )
        return None if response.length else HttpAnswer(response.status, response.headers, body.getvalue())

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
        except UnicodeError:
            connection.close()
            raise ClusterError(f"{self._target.hostname} cannot be the name of a host") from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if self._is_aborted:
                raise Interrupted from None
            raise NotSent(self._with_proxy(reason_of(error))) from None
        assert connection.sock is not None, "it is connected"
        connection.sock.settimeout(self._silence_s)
        self._socket = connection.sock
        if self._is_aborted:  # while there was no socket yet that abort() could have ended
            connection.close()
            raise Interrupted
        return connection

    def _new_connection(self) -> http.client.HTTPConnection:
        place = self._target if self._proxy is None else self._proxy
        host = place.hostname
        assert host is not None, "both URLs were checked"
        # Always with a port: http.client takes the end of an IPv6 address for one.
        port = place.port or (443 if place.scheme == "https" else 80)
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)
        connection = http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_S, context=self._tls)
        if self._proxy is not None:
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


class _Watch:
    """Ends a connection whose answer stops coming, which a timeout for each packet does not see."""

    def __init__(self, connection: http.client.HTTPConnection, period_s: float) -> None:
        self._socket = connection.sock
        self._period_s = period_s
        self._bytes = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hkrunner-answer", daemon=True)
        self.has_cut = False  #: whether it has ended the connection

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def received(self, count: int) -> None:
        """Count this many bytes as received."""
        self._bytes += count

    def _run(self) -> None:
        while not self._is_over.wait(self._period_s):
            if self._bytes < LEAST_BYTES:
                self.has_cut = True
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
                return
            self._bytes = 0


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
    if not url or is_this_machine(target.hostname):  # with a forwarded port of the cluster
        return None
    if urllib.request.proxy_bypass(target.netloc.rpartition("@")[2]):
        return None
    shown = ""
    try:
        proxy = urlsplit(url if "://" in url else f"http://{url}")
        shown = f": {_shown(proxy)}"
        if proxy.scheme == "http" and proxy.hostname and proxy.port != 0:
            return proxy
    except ValueError:
        pass  # a port that is no number, brackets without an IPv6 address
    raise ClusterError(
        f"the proxy in {target.scheme}_proxy is not of the form http://host:port{shown}; set no_proxy to go"
        " without it"
    )


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
    return printable(f"{type(error).__name__}: {error}")  # the text may be the server's
