"""The check of the Host header in front of a board, and the messages of failed starts."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import resource
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from hkrunner.boards.tensorboard.board_probe import BoardProbe
from hkrunner.boards.tensorboard.host_check import HostCheck, is_local_host
from hkrunner.boards.tensorboard.optuna import CookieCheck
from hkrunner.boards.tensorboard.start_failures import failure_of, too_little_memory

PREFIX = "/hkube/board/abc"


class QuietHandler(WSGIRequestHandler):
    """Prints no line for a request."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Application:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.paths.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        return [b"page"]


def ask(
    application: Any, path: str = "/", host: str = "127.0.0.1:1", **more: str
) -> tuple[str, dict[str, str]]:
    answers: list[tuple[str, dict[str, str]]] = []

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        answers.append((status, dict(headers)))

    b"".join(application({"PATH_INFO": path, "HTTP_HOST": host, **more}, start_response))
    return answers[0]


@pytest.mark.parametrize(
    "host", ["127.0.0.1:4000", "127.0.0.1", "localhost:80", "LOCALHOST", "[::1]:8080", "[::1]"]
)
def test_loopback_names_are_let_through(host: str) -> None:
    assert is_local_host(host)
    assert ask(HostCheck(Application(), PREFIX), host=host)[0] == "200 OK"


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example.com",
        "127.0.0.1.evil.com",
        "localhost.evil.com:80",
        "[::2]",
        "10.0.0.1",
        "127.0.0.1@e",
    ],
)
def test_other_names_are_refused(host: str) -> None:
    application = Application()
    assert ask(HostCheck(application, PREFIX), host=host)[0] == "403 Forbidden"
    assert application.paths == []


def test_fonts_asked_for_at_the_root_are_found() -> None:
    application = Application()
    ask(HostCheck(application, PREFIX), "/font-roboto/a.woff2")
    ask(HostCheck(application, PREFIX), "/data/runs")
    assert application.paths == [PREFIX + "/font-roboto/a.woff2", "/data/runs"]


def test_hkrunners_own_requests_do_not_count_as_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    application = Application()
    guard = HostCheck(application, PREFIX)
    now[0] = 150.0
    with make_server("127.0.0.1", 0, guard, handler_class=QuietHandler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        probe = BoardProbe(f"http://127.0.0.1:{server.server_port}/", health_path="x", list_path="x")
        assert not probe.is_answered()  # the page is no JSON
        thread.join()
    assert application.paths == ["/x"]
    assert guard.idle_s == 50
    ask(guard, host="evil.example.com")
    assert guard.idle_s == 50
    ask(guard)
    assert guard.idle_s == 0


def test_an_optuna_board_opens_by_its_address_only() -> None:
    application = Application()
    door = CookieCheck(application, PREFIX + "/dashboard")
    assert ask(door, "/dashboard")[0] == "403 Forbidden"
    assert ask(door, "/api/studies", HTTP_COOKIE="hkrunner-board=xyz")[0] == "403 Forbidden"
    status, headers = ask(door, PREFIX + "/dashboard")
    assert status == "302 Found" and headers["Location"] == "/dashboard/"
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert ask(door, "/api/studies", HTTP_COOKIE=f"other=1; {cookie}")[0] == "200 OK"
    assert application.paths == ["/api/studies"]


# --- failures


def sentence(error: BaseException, *, tail: str = "") -> str:
    failure = failure_of(error, port=6006, log_tail=tail)
    return f"{failure.error} | {failure.hint}"


def test_an_old_tensorboard_beside_a_new_setuptools_is_reported_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = {"tensorboard": "2.20.0", "setuptools": "84.2.1"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    assert sentence(ModuleNotFoundError("No module named 'pkg_resources'", name="pkg_resources")) == (
        "tensorboard 2.20.0 needs pkg_resources, which setuptools 84.2.1 no longer has"
        " | run: pip install 'tensorboard>=2.21' (or 'setuptools<82')"
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ModuleNotFoundError("x", name="tensorboard.program"),
            "TensorBoard is not installed | run: pip install",
        ),
        (
            ImportError("cannot import name 'x' from 'google.protobuf'"),
            "cannot be imported: cannot import name",
        ),
        (OSError(errno.EADDRINUSE, "in use"), "port 6006 is in use | choose another one, or 0"),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
            "port 6006 cannot be bound: Permission denied",
        ),
        (SystemExit(1), "tensorboard ended: last words"),
        (ValueError("bad flag"), "tensorboard did not start: ValueError: bad flag"),
        (MemoryError(), "there is too little memory for a board"),
    ],
)
def test_every_failure_is_one_sentence(error: BaseException, words: str) -> None:
    assert words in sentence(error, tail="last words")


@pytest.mark.parametrize(
    ("limit", "fits"), [(300 << 20, False), (1 << 30, True), (resource.RLIM_INFINITY, True)]
)
def test_a_limit_on_the_address_space_is_named(
    monkeypatch: pytest.MonkeyPatch, limit: int, fits: bool
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    failure = too_little_memory()
    assert failure is None if fits else failure and "300 MiB that RLIMIT_AS allows" in failure.error
