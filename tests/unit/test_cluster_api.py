"""The client of HKube's API: each answer that refuses, each way in which a connection fails, the rate."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hkrunner.runner.cluster.address import Cluster, cluster_of
from hkrunner.runner.cluster.api import PATIENCE_S, PAUSES_S, ClusterApi
from hkrunner.runner.cluster.pace import REQUESTS, WINDOW_S, RequestPace
from hkrunner.runner.cluster.refusals import AlgorithmMissing, RequestRefused, error_of
from hkrunner.runner.cluster.transport import AnswerLost, Interrupted
from hkrunner.runner.errors import ClusterError, SettingsError
from support.clock import Clock
from support.hkube_api import Fault, HkubeApi
from support.waiting import wait_until

TLS = Path(__file__).parents[1] / "integration" / "data" / "tls"
PIPELINE = {"name": "p-1", "nodes": [{"nodeName": "sq", "algorithmName": "sq", "input": []}]}
INFO = "GET .*/storage/info"


class Time(Clock):
    """A clock that sleeping moves on; nothing waits."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def server(**more: Any) -> HkubeApi:
    return HkubeApi(lambda row: row, per_second=1_000_000, **more)


def client(fake: HkubeApi, said: list[str] | None = None, **more: Any) -> tuple[ClusterApi, Time]:
    time = Time()
    cluster = Cluster("lab", fake.url, **more)
    trouble = said.append if said is not None else lambda text: None
    return ClusterApi(cluster, on_trouble=trouble, sleep=time.sleep, clock=time), time


@pytest.mark.parametrize(
    ("status", "body", "sentence", "exit_status"),
    [
        (
            400,
            b'{"error":{"code":400,"message":"data should have required property \'name\'"}}',
            "lab refused the request: data should have required property 'name' (HTTP 400)",
            8,
        ),
        (
            400,
            b'{"error":{"code":400,"message":"version is in use","details":["job1","job2"]}}',
            "lab refused the request: version is in use; job1; job2 (HTTP 400)",
            8,
        ),
        (401, b'{"error":"Unauthorized"}', "lab refused the request: Unauthorized (HTTP 401)", 8),
        (
            403,
            b"Access denied",
            "lab refused the request: the user may lack a role (view, edit, execute, delete) (HTTP 403)",
            8,
        ),
        (
            404,
            b'{"error":{"code":404,"message":"algorithm sq Not Found"}}',
            "lab has no algorithm sq: send it there with `hkrunner apply --on lab`, or give --algorithm NAME",
            3,
        ),
        (
            400,
            b'{"error":{"code":400,"message":"missing image for algorithm sq"}}',
            "lab refused the request: the algorithm sq has no image: its build is not over, or it has failed"
            " (HTTP 400)",
            8,
        ),
        (
            404,
            b"<!DOCTYPE html><pre>Cannot GET /x</pre>",
            "lab refused the request: there is no such route; is this the address of HKube's api-server?"
            " (HTTP 404)",
            8,
        ),
        (500, b"", "lab refused the request: the answer has no text (HTTP 500)", 8),
        (
            400,
            b"<html><head><title>400 The plain HTTP request was sent to\nHTTPS port</title></head></html>",
            "lab refused the request: 400 The plain HTTP request was sent to HTTPS port (HTTP 400)",
            8,
        ),
        (500, b"plain\x1b[31m text", "lab refused the request: plain\\x1b[31m text (HTTP 500)", 8),
        (
            500,
            b'{"error":{"value":{"status":500}}}',
            'lab refused the request: {"value": {"status": 500}} (HTTP 500)',
            8,
        ),
        (503, b"<html>no</html>", "lab refused the request: the api-server is not available (HTTP 503)", 8),
    ],
)
def test_an_error_is_one_sentence(status: int, body: bytes, sentence: str, exit_status: int) -> None:
    error = error_of("lab", status, body)
    assert (str(error), error.exit_status) == (sentence, exit_status)


def test_the_api_is_found_behind_the_ingress_and_without_it() -> None:
    for prefix in ("/hkube/api-server", ""):
        with server(prefix=prefix).running() as fake:
            api, _ = client(fake)
            assert api.storage_encoding == "json"
            assert api.get("exec/status/nope".replace("nope", _run(api)))["status"] == "active"


def _run(api: ClusterApi) -> str:
    answer: dict[str, str] = api.post("exec/raw", PIPELINE)
    return answer["jobId"]


def test_another_server_is_not_taken_for_the_api() -> None:
    with server(prefix="/elsewhere").running() as fake:
        api, _ = client(fake)
        with pytest.raises(ClusterError, match="lab is reached, but there is no HKube API at"):
            api.connect()
        fake.faults = [Fault(INFO, 200, b"<html>Welcome</html>") for _ in range(2)]
        with pytest.raises(ClusterError, match="there is no HKube API"):
            api.connect()
        for location, told in {
            "https://login.example?state=secret": r"https://login\.example; give that address with --on",
            "https://me:pass@hkube.example/x/api/v1/storage/info": "https://hkube.example/x; give",
            "/ui/": r"http://127\.0\.0\.1:\d+/ui/; give",
            "http://[": "another address; give",
        }.items():
            fake.faults = [Fault(INFO, 302, headers={"Location": location})]
            with pytest.raises(ClusterError, match=f"redirects to {told}"):
                api.connect()


def test_a_missing_algorithm_is_told_apart() -> None:
    with server(name="other").running() as fake, pytest.raises(AlgorithmMissing):
        _run(client(fake)[0])


@pytest.mark.parametrize(
    "fault",
    [
        {"close": "before"},
        {"close": "within", "is_done": True},
        {"status": 502, "body": b"<html>Bad Gateway</html>"},
        {"status": 504},
        {"status": 200, "body": b"<html><title>Maintenance</title></html>"},
        {"status": 200, "body": b"{half"},
        {"status": 302, "headers": {"Location": "https://login.example"}},
        {"status": 404, "body": b"404 page not found", "content_type": "text/plain"},
        {"status": 200, "body": b"null"},
        {"status": 522},
    ],
    ids=[
        *("no answer", "half an answer", "502", "504", "a page", "no JSON", "a redirection", "404"),
        *("another JSON", "a provider's"),
    ],
)
def test_what_only_reads_is_sent_again_until_it_is_answered(fault: dict[str, Any]) -> None:
    said: list[str] = []
    with server().running() as fake:
        api, time = client(fake, said)
        job = _run(api)
        fake.faults = [Fault("GET .*/exec/status", **fault) for _ in range(3)]
        assert api.get(f"exec/status/{job}", kind=dict)["jobId"] == job
    assert [pause for pause in time.slept if pause in PAUSES_S] == [0.5, 1.0, 2.0]
    assert len(said) == 2
    assert said[0].startswith("◌ lab is not reached: ")
    assert said[0].endswith("; retrying")
    assert said[1] == "● lab answers again"


def test_a_page_of_a_gateway_is_no_result() -> None:
    said: list[str] = []
    page = Fault("GET .*/stream/", 200, b"<html><title>Sorry</title></html>", content_type="text/html")
    with server().running() as fake:
        api, _ = client(fake, said)
        api.connect()
        fake.stored["a/b"], fake.faults = b"value", [page]
        assert api.get_bytes("storage/stream/a/b") == b"value"
        with pytest.raises(RequestRefused, match="no such route"):
            api.get("no/such/route")  # HKube's own page of HTML is not waited for
    assert said[0] == "◌ lab is not reached: something else answers in its place (Sorry, HTTP 200); retrying"


@pytest.mark.parametrize(
    "fault", [{"close": "before"}, {"status": 502}, {"close": "within", "is_done": True}]
)
def test_a_job_is_never_submitted_twice(fault: dict[str, Any]) -> None:
    with server().running() as fake:
        api, _ = client(fake)
        api.connect()
        fake.faults = [Fault("POST .*/exec/raw", **fault)]
        with pytest.raises(AnswerLost):
            _run(api)
        assert sum("exec/raw" in one for one in fake.requests) == 1


def test_the_first_contact_is_not_repeated() -> None:
    with server().running() as fake:
        api, time = client(fake)
    with pytest.raises(ClusterError, match=r"^lab cannot be reached: connection refused$"):
        api.connect()
    assert time.slept == []


def test_an_outage_ends_after_minutes() -> None:
    with server().running() as fake:
        api, time = client(fake)
        api.connect()
        began = time.now
    with pytest.raises(ClusterError, match="lab cannot be reached: connection refused"):
        api.get("storage/info")
    assert PATIENCE_S <= time.now - began < PATIENCE_S + 15


def test_too_many_requests_are_waited_for_even_by_a_submission() -> None:
    refusal = b'{"error":{"code":429,"message":"Too Many Requests"}}'
    said: list[str] = []
    with server().running() as fake:
        api, time = client(fake, said)
        fake.faults = [Fault("POST .*/exec/raw", 429, refusal) for _ in range(2)]
        assert _run(api) == "job000000001"
        assert sum(time.slept) >= 2
        fake.faults = [Fault(INFO, 429, refusal, headers={"Retry-After": "50"}) for _ in range(20)]
        began = time.now
        with pytest.raises(RequestRefused, match="Too Many Requests"):
            api.get("storage/info")
        assert 250 <= time.now - began <= PATIENCE_S + 5
    assert said == ["◌ lab gets too many requests from this address; waiting"]


def test_the_rate_is_kept_in_every_window() -> None:
    time = Time()
    pace = RequestPace(time.sleep, time)
    at = []
    for _ in range(50):
        pace.wait()
        at.append(time.now)
    assert all(later - early >= WINDOW_S - 1e-6 for early, later in zip(at, at[REQUESTS:], strict=False))
    assert at[REQUESTS - 1] == at[0], "the first few need not wait"


# ---- login


def test_a_login_is_made_when_it_is_asked_for_and_renewed_before_it_ends() -> None:
    with server(login=("ada", "secret"), token_s=40).running() as fake:
        api, time = client(fake, username="ada", password="secret")
        api.connect()
        assert fake.tokens == 1
        time.now += 25
        api.get("storage/info")
        assert fake.tokens == 1
        time.now += 10  # within the last 10 s
        api.get("storage/info")
        assert fake.tokens == 2
        fake.tokens = 7  # the server has forgotten the token
        job = _run(api)
        assert fake.tokens == 8
        assert list(fake.jobs) == [job]


def test_a_login_that_was_accepted_once_is_renewed_after_an_outage_of_keycloak() -> None:
    said: list[str] = []
    with server(login=("ada", "secret"), token_s=40).running() as fake:
        api, _ = client(fake, said, username="ada", password="secret")
        job = _run(api)
        text = b'{"error":{"code":500,"message":"connect ECONNREFUSED 10.0.0.1:8080"}}'
        busy = b'{"error":{"code":500,"message":"Request failed with status code 429"}}'
        fake.faults = [Fault("POST .*/auth/login", 500, body) for body in (text, busy, text)]
        fake.tokens = 7  # the token of the client is no longer accepted
        assert api.get(f"exec/status/{job}")["jobId"] == job
        assert said == ["◌ lab does not renew the login: connect ECONNREFUSED 10.0.0.1:8080; retrying"]
        fake.login = ("ada", "changed")
        fake.tokens = 20
        with pytest.raises(
            ClusterError, match="refused the login of ada: Request failed with status code 401"
        ):
            api.get(f"exec/status/{job}")
    assert sum("login" in one for one in fake.requests) == 1 + 4 + 1


@pytest.mark.parametrize(
    ("credentials", "sentence"),
    [
        ({}, "lab wants a login: set HKRUNNER_CLUSTER_USERNAME and HKRUNNER_CLUSTER_PASSWORD"),
        ({"token": "old"}, "lab does not accept the token"),
        (
            {"username": "ada", "password": "wrong"},
            "lab refused the login of ada: Request failed with status code 401",
        ),
    ],
    ids=["none", "an old token", "a wrong password"],
)
def test_a_login_that_fails_is_explained(credentials: dict[str, str], sentence: str) -> None:
    with server(login=("ada", "secret")).running() as fake:
        with pytest.raises(ClusterError, match=sentence):
            client(fake, **credentials)[0].connect()
        assert "wrong" not in sentence or sum("login" in one for one in fake.requests) == 1


def test_a_request_that_a_new_login_does_not_help_names_the_roles() -> None:
    with server(login=("ada", "secret"), token_s=0).running() as fake:
        api, _ = client(fake, username="ada", password="secret")
        with pytest.raises(ClusterError, match=r"accepted the login of ada, and refuses .* may lack a role"):
            api.connect()
        assert sum("login" in one for one in fake.requests) == 1


# ---- TLS and proxies


def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    return context


def test_a_certificate_is_checked_by_the_named_authority() -> None:
    with server(tls=tls()).running() as fake:
        url = fake.url.replace("127.0.0.1", "localhost")
        ClusterApi(Cluster("lab", url, ca=str(TLS / "cert.pem"))).connect()
        ClusterApi(Cluster("lab", url, verify=False)).connect()
        with pytest.raises(
            ClusterError, match=r"the certificate of localhost:\d+ is not trusted: .*self.signed"
        ):
            ClusterApi(Cluster("lab", url)).connect()


def test_a_file_without_certificates_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"nothing\.pem has no certificates: No such file"):
        ClusterApi(Cluster("lab", "https://localhost", ca=str(tmp_path / "nothing.pem")))


def test_plain_requests_go_through_a_proxy_unless_no_proxy_excludes_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    with server().running() as fake:
        monkeypatch.setenv("http_proxy", f"http://me:pass@127.0.0.1:{fake.port}")
        cluster = Cluster("lab", "http://hkube.invalid")  # a name that only the proxy has to know
        assert ClusterApi(cluster).storage_encoding == "json"
        monkeypatch.setenv("no_proxy", "hkube.invalid")
        with pytest.raises(ClusterError, match="there is no host of this name"):
            ClusterApi(cluster).connect()
        monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
        ClusterApi(Cluster("lab", fake.url)).connect()  # a proxy cannot reach a port of this machine
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    monkeypatch.delenv("no_proxy")
    with pytest.raises(ClusterError, match="the proxy in http_proxy is not of the form http://host:port"):
        ClusterApi(cluster)


@contextlib.contextmanager
def tunnelling(seen: list[tuple[str, str]], status: int) -> Iterator[int]:
    """A proxy that notes what is to be connected with which login, and refuses; yields its port."""

    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            seen.append((self.path, self.headers.get("Proxy-Authorization", "")))
            self.send_error(status)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield proxy.server_address[1]
        finally:
            proxy.shutdown()
            thread.join()


def test_tls_goes_through_a_proxy_by_a_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []
    monkeypatch.delenv("no_proxy", raising=False)
    with tunnelling(seen, 407) as port:
        monkeypatch.setenv("https_proxy", f"http://me:pass@127.0.0.1:{port}")
        with pytest.raises(ClusterError, match=r"407.*\(by the proxy http://127.0.0.1:\d+\)"):
            ClusterApi(Cluster("lab", "https://hkube.invalid")).connect()
    assert seen == [("hkube.invalid:443", "Basic bWU6cGFzcw==")]


# ---- ends


def test_another_thread_ends_a_request_that_waits() -> None:
    with server().running() as fake:
        api, _ = client(fake)
        api.connect()
        with fake._lock:  # no answer while this is held
            ended: list[str] = []

            def ask() -> None:
                try:
                    api.get("storage/info")
                except Interrupted:
                    ended.append("interrupted")

            thread = threading.Thread(target=ask)
            thread.start()
            wait_until(lambda: api._transport._socket is not None, what="the request")
            api.abort()
            thread.join()
            assert ended == ["interrupted"]
        api.resume()
        assert api.get("storage/info")


# ---- addresses


def test_clusters_have_names_in_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "hkrunner"
    folder.mkdir()
    (folder / "password").write_text("secret\n")
    (folder / "clusters.yml").write_text(
        "clusters:\n  lab: {url: https://lab.example/, username: ada, passwordFile: password, ca: lab.pem}\n"
        "  bad: {url: lab.example}\n  typo: {url: https://x, user: ada}\n"
    )
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    lab = Cluster("lab", "https://lab.example", "ada", "secret", None, f"{folder}/lab.pem")
    assert cluster_of("lab", environ, "/") == lab
    assert cluster_of("https://lab.example/api/v1/", environ, "/") == lab, "the same URL"
    assert cluster_of("https://other.example/x/", environ, "/").url == "https://other.example/x"
    secret = {**environ, "HKRUNNER_CLUSTER_PASSWORD": "other", "HKRUNNER_CLUSTER_TOKEN": "t"}
    assert cluster_of("lab", secret, "/") == lab._replace(password="other", token="t")
    for name, sentence in {
        "nope": "has no such cluster \\(it has lab, bad, typo\\)",
        "bad": "a cluster's URL looks like https://",
        "typo": "has unknown keys: user; known are ca, password, passwordFile, token, url, username, verify",
        "ftp://x": "looks like https://",
        "https://ada:secret@x": "a URL is shown in messages",
        "htps://ada:secret@x": "a URL is shown in messages",
        "https://ada:sec/ret@x": "a URL is shown in messages",
        "hkubectl": "no .hkube/.hkuberc in this folder",
    }.items():
        with pytest.raises(SettingsError, match=sentence):
            cluster_of(name, environ, str(tmp_path))


def test_the_file_of_hkubectl_is_read(tmp_path: Path) -> None:
    (tmp_path / ".hkube").mkdir()
    content = {
        "endpoint": "https://lab.example",
        "rejectUnauthorized": False,
        "pathPrefix": "/hkube/api-server/",
    }
    (tmp_path / ".hkube" / ".hkuberc").write_text(json.dumps({**content, "username": "ada", "password": "p"}))
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    found = cluster_of("hkubectl", {"HOME": "/nonexistent"}, str(below))
    assert found == Cluster("hkubectl", "https://lab.example/hkube/api-server", "ada", "p", verify=False)
