"""Requests to HKube's API server: paced, logged in, repeated where that is safe, refused in one sentence.

    api = ClusterApi(cluster_of("lab", os.environ, os.getcwd()))
    api.get("store/algorithms/my-alg")           the decoded JSON
    api.post("exec/stop", {"jobId": "abc"})

A request that may not be repeated (it would start a second job) is sent again only if the server has not got
it. Everything else is sent again for PATIENCE_S after the cluster was last heard of.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

from ..errors import ClusterError
from ..protocol.messages import printable
from .address import Cluster
from .login import Login
from .pace import RequestPace
from .refusals import ROLES, RequestRefused, error_of, is_of_gateway, words_of_gateway
from .transport import ANSWER_MAX, AnswerLost, Body, HttpAnswer, NotSent, Transport

#: How long an outage may last: the cluster's own parts are restarted within a few minutes.
PATIENCE_S = 300.0
#: The pauses between attempts during an outage; the last one is repeated.
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 10.0)
#: The pause after 429, a little more than the second that the server counts in: other clients of the same
#: address use up the rate. A gateway may ask for a longer one, by a header.
BUSY_PAUSE_S = 1.1
#: A wait because of 429 that is reported once it takes longer.
BUSY_UNTOLD_S = 10.0
#: Where the API is: behind HKube's ingress, and at the api-server itself.
PREFIXES = ("/hkube/api-server", "")
#: A gateway answers with these when it lost the api-server, perhaps after passing the request on: 502 to 504,
#: and those of large providers, 520 to 530. The api-server's own are 500 and below 500, without 408.
_GATEWAY = frozenset((408, *range(502, 600)))
#: What the api-server answers also while its database or etcd is away, which ends no job.
SERVER_OUTAGE = _GATEWAY | {500}
#: Bytes of the results of a job, its graph or one value: the server takes no more of a pipeline (2000 MB).
RESULT_MAX = 2_000_000_000
#: A body is sent in pieces of this size: a timeout holds for each, and a large one takes its time.
_PIECE = 64 * 1024
#: Keycloak itself has refused a login. Any other error may mean that Keycloak was not reached, or is busy.
_REFUSED_LOGIN = re.compile(r"status code 4(?!08|29)\d\d")

Statuses = frozenset[int]


class ClusterApi:
    """The API server of one cluster. For one thread; another one may only call abort()."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        on_trouble: Callable[[str], None] = lambda text: None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_trouble` gets a sentence when the connection is lost, and one when it is back.

        Nothing is sent yet. Raises ClusterError for a proxy or a file of certificates that cannot be used.
        """
        self.cluster = cluster
        self._on_trouble = on_trouble
        self._sleep = sleep
        self._clock = clock
        self._transport = Transport(cluster)
        self._login = Login(cluster, clock)
        self._pace = RequestPace(sleep, clock)
        path = urlsplit(cluster.url).path
        self._prefix = path or None  #: the part of the path before /api/v1; None: not known yet
        self._encoding: str | None = None  #: of stored values
        self._is_known = False  #: whether something has answered here as HKube does
        self._heard_at: float | None = None  #: when the cluster last answered
        self._is_in_trouble = False

    @property
    def storage_encoding(self) -> str:
        """How stored values are encoded: bson, json or msgpack. The first use connects."""
        self.connect()
        assert self._encoding is not None, "it is known once connected"
        return self._encoding

    def connect(self) -> None:
        """Send a request, once, which also finds the path of the API."""
        if self._encoding is None:
            self._encoding = self._connect()

    @property
    def base_url(self) -> str:
        """The URL below which the API is (/api/v1). The first use may send a request, as connect() does."""
        if self._prefix is None:
            self.connect()
        parts = urlsplit(self.cluster.url)
        return f"{parts.scheme}://{parts.netloc}{self._prefix}"

    def get(
        self,
        path: str,
        *,
        most: int = ANSWER_MAX,
        is_outage: Statuses = _GATEWAY,
        kind: type = object,
        **query: object,
    ) -> Any:
        """Return the decoded answer, of this kind and of at most `most` bytes. `path` is below /api/v1/."""
        words = urlencode(query)
        target = f"{quote(path)}?{words}" if words else quote(path)
        return self.call("GET", target, most=most, is_outage=is_outage, read=partial(self._json, kind=kind))

    def get_bytes(self, path: str) -> bytes:
        """Return the body of the answer as it is."""
        body: bytes = self.call("GET", quote(path), most=RESULT_MAX, read=attrgetter("body"))
        return body

    def post(
        self, path: str, value: object, *, may_repeat: bool = False, is_outage: Statuses = _GATEWAY
    ) -> Any:
        """Send the value as JSON, and return the decoded answer. `is_outage`: see call().

        Raises AnswerLost, unless `may_repeat`, where the server may have acted without an answer.
        """
        body = json_body(json.dumps(value).encode())
        return self.call("POST", path, body, may_repeat=may_repeat, is_outage=is_outage)

    def post_body(self, path: str, body: Body, *, may_repeat: bool = False) -> Any:
        """Send a body that is JSON already, as post() does."""
        return self.call("POST", path, body, may_repeat=may_repeat)

    def call(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        may_repeat: bool | None = None,
        most: int = ANSWER_MAX,
        is_outage: Statuses = _GATEWAY,
        read: Callable[[HttpAnswer], Any] | None = None,
    ) -> Any:
        """Send a request, and return the decoded answer. `path` is quoted already.

        may_repeat: whether a second request does no harm; None: for GET only. most: bytes of the answer.
        is_outage: statuses that are waited for, as a lost connection is. read: what decodes an answer that is
        no JSON.
        """
        repeats = method == "GET" if may_repeat is None else may_repeat
        if self._prefix is None:
            self.connect()
        if self._login.is_due:
            self._log_in()
        exchange = partial(
            self._exchange, method, path, body, may_repeat=repeats, most=most, is_outage=is_outage, read=read
        )
        answer, value = exchange()
        if answer.status == 401:
            self._log_in()  # the token has expired, or this is the first request
            answer, value = exchange()
            if answer.status == 401:
                raise ClusterError(
                    f"{self.cluster.name} has accepted the login of {self.cluster.username}, and refuses the"
                    f" request (HTTP 401): the user may lack a role for it ({ROLES})"
                )
        self._check(answer)
        return value

    def abort(self) -> None:
        """End the request that is being made, from another thread; until resume() no other can be made."""
        self._transport.abort()

    def resume(self) -> None:
        """Allow requests again."""
        self._transport.resume()

    # ---- one request

    def _connect(self) -> str:
        """Find the path of the API if the URL has none, and return the encoding of stored values."""
        if self._prefix is not None:
            return _encoding_of(self.call("GET", "storage/info"))
        for prefix in PREFIXES:
            encoding = self._encoding_at(prefix)
            if encoding is not None:
                return encoding
        raise ClusterError(
            f"{self.cluster.name} is reached, but there is no HKube API at"
            f" {self.cluster.url}{PREFIXES[0]}/api/v1 and at {self.cluster.url}/api/v1; give the URL with its"
            " path"
        )

    def _encoding_at(self, prefix: str) -> str | None:
        """Return the encoding, and use this prefix from now on; None if something else is there."""
        self._prefix = prefix
        is_found = False
        try:
            encoding = _encoding_of(self.call("GET", "storage/info"))
            is_found = True
        except NotJson:
            return None
        except RequestRefused as error:
            if error.status == 404 and not error.text:  # a page of HTML
                return None
            raise
        finally:
            if not is_found:
                self._prefix = None
        return encoding

    def _exchange(
        self,
        method: str,
        path: str,
        body: Body | None,
        *,
        may_repeat: bool,
        most: int = ANSWER_MAX,
        is_outage: Statuses = _GATEWAY,
        read: Callable[[HttpAnswer], Any] | None = None,
    ) -> tuple[HttpAnswer, Any]:
        """Return the answer to the request, sent as often as it takes and may be, and what it says."""
        outage: Outage | None = None
        busy_since: float | None = None
        while True:
            self._pace.wait()
            headers = {"Accept": "application/json, */*", **self._login.header}
            try:
                answer = self._transport.send(
                    method, f"{self._prefix}/api/v1/{path}", headers, body, most=most
                )
                if answer.status in is_outage:
                    whose = "the gateway" if answer.status in _GATEWAY else "the api-server"
                    raise AnswerLost(str(error_of(whose, answer.status, answer.body)))
                value = self._value(answer, read or self._json, waits=may_repeat and self._is_known)
            except (NotSent, AnswerLost) as error:
                if isinstance(error, AnswerLost) and not may_repeat:
                    raise AnswerLost(
                        f"{self.cluster.name} was sent a request, and its answer is lost ({error}): what was"
                        " asked for may have been done"
                    ) from None
                outage = outage or Outage(self._heard_at, self._clock())
                self._report_trouble(error)
                pause_s = outage.next_pause_s(self._clock())
                if pause_s is None:
                    raise ClusterError(f"{self.cluster.name} cannot be reached: {error}") from None
                self._sleep(pause_s)
                continue
            self._heard()
            if answer.status != 429:
                return answer, value
            now = self._clock()
            busy_since = now if busy_since is None else busy_since
            pause_s = max(BUSY_PAUSE_S, _asked_pause_s(answer))
            if now + pause_s - busy_since > PATIENCE_S:
                raise error_of(self.cluster.name, answer.status, answer.body)
            self._report_busy(now - busy_since, pause_s)
            self._pace.refused()
            self._sleep(pause_s)

    def _value(self, answer: HttpAnswer, read: Callable[[HttpAnswer], Any], *, waits: bool) -> Any:
        """Return what the answer says, None if it refuses.

        waits: raise AnswerLost for the answer of a gateway in the API's place: a page about maintenance, a
        login, a service that it does not find for a while.
        """
        if waits and is_of_gateway(answer):
            raise AnswerLost(words_of_gateway(answer))
        if answer.status >= 300:
            return None
        try:
            value = read(answer)
        except NotJson:
            if not waits:
                raise
            raise AnswerLost(words_of_gateway(answer)) from None
        self._is_known = True
        return value

    def _check(self, answer: HttpAnswer) -> None:
        """Raise what the answer says unless the request was accepted."""
        if 300 <= answer.status < 400:
            location = _redirection(self.base_url, str(answer.headers.get("Location", "")))
            raise ClusterError(
                f"{self.cluster.name} redirects to {location}; give that address with --on, if it is HKube's"
            )
        if answer.status >= 400:
            raise error_of(self.cluster.name, answer.status, answer.body)

    def _log_in(self) -> None:
        body = json_body(json.dumps(self._login.credentials()).encode())
        # A password that was accepted before is right: Keycloak may be away for a while.
        outage = Outage(self._heard_at if self._login.was_accepted else None, self._clock())
        is_told = False
        while True:
            answer, value = self._exchange("POST", "auth/login", body, may_repeat=True)
            try:
                self._check(answer)
                self._login.accept(value)
                return
            except RequestRefused as error:
                # Keycloak's refusal arrives as 500 with the text of HKube's own HTTP client.
                pause_s = None if _REFUSED_LOGIN.search(error.text) else outage.next_pause_s(self._clock())
                if pause_s is None:
                    raise ClusterError(
                        f"{self.cluster.name} refused the login of {self.cluster.username}:"
                        f" {error.text or error} (wrong password, or its Keycloak cannot be reached)"
                    ) from None
                if not is_told:
                    is_told = True
                    self._on_trouble(
                        f"◌ {self.cluster.name} does not renew the login: {error.text or error}; retrying"
                    )
            self._sleep(pause_s)

    def _json(self, answer: HttpAnswer, kind: type = object) -> Any:
        try:
            value = json.loads(answer.body)
            if isinstance(value, kind):
                return value
            found = "another JSON than HKube"
        except (ValueError, RecursionError):
            found = "something else than JSON"
        raise NotJson(f"{self.cluster.name} answered with {found}; is this HKube?")

    # ---- outages

    def _heard(self) -> None:
        self._heard_at = self._clock()
        if self._is_in_trouble:
            self._is_in_trouble = False
            self._on_trouble(f"● {self.cluster.name} answers again")

    def _report_busy(self, waited_s: float, pause_s: float) -> None:
        """Report a wait for other clients' requests, once, when it becomes a long one."""
        if waited_s <= BUSY_UNTOLD_S < waited_s + pause_s:
            self._on_trouble(f"◌ {self.cluster.name} gets too many requests from this address; waiting")

    def _report_trouble(self, error: Exception) -> None:
        if not self._is_in_trouble and self._heard_at is not None:
            self._is_in_trouble = True
            self._on_trouble(f"◌ {self.cluster.name} is not reached: {error}; retrying")


class NotJson(ClusterError):
    """The body of an answer is not the JSON that it should be, though the request was accepted."""


class Outage:
    """How long the cluster has not answered, and so how long to wait for the next attempt."""

    def __init__(self, heard_at: float | None, now: float) -> None:
        """heard_at: when it last answered; None: never, so that the address may be wrong."""
        self._until = None if heard_at is None else now + PATIENCE_S
        self._attempts = 0

    def next_pause_s(self, now: float) -> float | None:
        """Return the seconds to wait before the next attempt, None if there is to be no other."""
        if self._until is None or now >= self._until:
            return None
        self._attempts += 1
        return PAUSES_S[min(self._attempts, len(PAUSES_S)) - 1]


def _asked_pause_s(answer: HttpAnswer) -> float:
    """Return the seconds that the answer asks to wait before the next request, 0 if it does not."""
    words = str(answer.headers.get("Retry-After", "")).strip()
    return float(words) if words.isascii() and words.isdigit() and len(words) < 9 else 0.0


def _redirection(base: str, location: str) -> str:
    """Return the address as --on takes it: without the path of the request, nor what may be secret in it."""
    try:
        target = urlsplit(urljoin(base, location))
    except ValueError:
        return "another address"
    path = target.path.partition("/api/v1")[0]
    return printable(f"{target.scheme}://{target.netloc.rpartition('@')[2]}{path}")


def json_body(data: bytes) -> Body:
    """Return the body of a request for this JSON text."""
    view = memoryview(data)
    return Body(
        len(data),
        "application/json",
        lambda: (bytes(view[at : at + _PIECE]) for at in range(0, len(data), _PIECE)),
    )


def _encoding_of(info: Any) -> str:
    """Return the encoding in the answer of storage/info."""
    facts = info if isinstance(info, dict) else {}
    return str(facts.get("encoding") or "bson")
