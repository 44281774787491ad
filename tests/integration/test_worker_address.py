"""Where hkrunner looks for the worker, and what it reports while no worker answers there."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from pathlib import Path

import pytest
from support.programs import run_hkrunner, serving
from support.scripted_worker import ScriptedWorker
from support.served import OBEYS


@pytest.mark.parametrize(
    ("env", "option"),
    [
        ({}, True),
        ({"WORKER_SOCKET_URL": "ws://127.0.0.1:9"}, True),
        ({"WORKER_SOCKET_URL": "{url}", "WORKER_SOCKET_HOST": "127.0.0.1", "WORKER_SOCKET_PORT": "9"}, False),
        ({"WORKER_SOCKET_HOST": "localhost", "WORKER_SOCKET_PORT": "{port}"}, False),
        ({"WORKER_SOCKET_PORT": "{port}"}, False),
        ({"WORKER_SOCKET_PROTOCOL": "ws", "WORKER_SOCKET_PORT": "{port}"}, False),
    ],
    ids=["--url", "--url before all", "URL before HOST", "HOST and PORT", "PORT", "PROTOCOL and PORT"],
)
def test_the_worker_is_found_where_option_and_environment_say(
    tmp_path: Path, env: dict[str, str], option: bool
) -> None:
    with ScriptedWorker() as worker:
        names = ("URL", "PROTOCOL", "HOST", "PORT")
        clean: dict[str, str | None] = {f"WORKER_SOCKET_{name}": None for name in names}
        told = {name: value.format(url=worker.url, port=worker.port) for name, value in env.items()}
        given = ("--url", worker.url) if option else ()
        with serving("--entry", OBEYS, *given, cwd=tmp_path, env={**clean, **told}):
            client = worker.accept()
            assert client.query == {"storage": "v1", "encoding": "json"}


def test_by_default_the_worker_is_at_port_3000_of_this_machine(tmp_path: Path) -> None:
    names = ("URL", "PROTOCOL", "HOST", "PORT")
    clean: dict[str, str | None] = {f"WORKER_SOCKET_{name}": None for name in names}
    with serving("--entry", OBEYS, cwd=tmp_path, env=clean) as program:
        # Somebody may serve there: connected or waiting, it is named.
        program.wait_for_line("ws://localhost:3000?storage=v1&encoding=json")


def test_a_query_that_the_user_gives_is_kept(tmp_path: Path) -> None:
    with ScriptedWorker() as worker:
        url = f"{worker.url}/hkube/debug/green?hostname=pc1"
        with serving("--entry", OBEYS, "--url", url, cwd=tmp_path):
            client = worker.accept()
            assert client.path == "/hkube/debug/green?hostname=pc1&storage=v1&encoding=json"


def test_the_wait_for_a_worker_is_reported_once_with_the_way_to_run_without_one(tmp_path: Path) -> None:
    with (
        ScriptedWorker(listens=False) as worker,
        serving("--entry", OBEYS, "--url", worker.url, cwd=tmp_path) as program,
    ):
        program.wait_for_line("waiting for an HKube worker")
        program.wait_for_line("--input")
        with socket.create_server(("127.0.0.1", worker.port)) as refusing:
            for _ in range(6):
                refusing.accept()[0].close()
        worker.listen()
        worker.accept()
        program.wait_for_line("connected to")
        said = [line for line in program.stderr if "waiting for an HKube worker" in line]
        assert len(said) == 1
        assert worker.url in said[0]
        assert "connection refused" in said[0]


def test_connect_timeout_ends_with_5_and_a_sentence(tmp_path: Path) -> None:
    with ScriptedWorker(listens=False) as worker:
        began = time.monotonic()
        ended = run_hkrunner("--entry", OBEYS, "--url", worker.url, "--connect-timeout", "0.5", cwd=tmp_path)
        assert ended.status == 5
        assert time.monotonic() - began >= 0.5
        assert f"no worker at {worker.url}" in ended.stderr
        assert "0.5 s" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_an_unknown_host_is_reported(tmp_path: Path) -> None:
    ended = run_hkrunner(
        *("--entry", OBEYS, "--url", "ws://no-such-host.invalid:3000", "--connect-timeout", "0.2"),
        cwd=tmp_path,
    )
    assert ended.status == 5
    assert "no-such-host.invalid" in ended.stderr
    assert "the host name is not known (" in ended.stderr and "Exception" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_web_server_in_the_place_of_the_worker_is_told_as_one(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"ws://127.0.0.1:{server.server_port}/nothing-there"
            ended = run_hkrunner("--entry", OBEYS, "--url", url, "--connect-timeout", "3", cwd=tmp_path)
        finally:
            server.shutdown()
            thread.join()
    assert ended.status == 5 and "Exception" not in ended.stderr
    assert "what answers there is no worker (handshake status 404 file not found)" in ended.stderr, ended


@pytest.mark.parametrize("url", ["http://127.0.0.1:3000", "127.0.0.1:3000", "ws://", "ws://127.0.0.1:port"])
def test_an_invalid_url_is_refused_before_anything_starts(tmp_path: Path, url: str) -> None:
    ended = run_hkrunner("--entry", OBEYS, "--url", url, cwd=tmp_path)
    assert ended.status == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "URL" in ended.stderr


@pytest.mark.parametrize(
    "url",
    ["ws://me:hush@127.0.0.1:port", "ws://me:hu/sh@127.0.0.1:1", "http://me:hush@host", "ws://me:hush@"],
)
def test_an_invalid_url_is_refused_without_its_password(tmp_path: Path, url: str) -> None:
    ended = run_hkrunner("--entry", OBEYS, "--url", url, cwd=tmp_path)
    assert ended.status == 2
    (line,) = ended.stderr.splitlines()
    assert "URL" in line and "****@" in line and "hu" not in line, line


def test_a_login_in_the_url_is_shown_and_kept_nowhere(tmp_path: Path) -> None:
    with ScriptedWorker(listens=False) as worker:
        url = f"ws://me:hush@127.0.0.1:{worker.port}"
        dry = run_hkrunner("--entry", OBEYS, "--url", url, "--dry-run", "-j", cwd=tmp_path)
        late = run_hkrunner("--entry", OBEYS, "--url", url, "--connect-timeout", "0.1", cwd=tmp_path)
        assert late.status == 5 and f"no worker at ws://****@127.0.0.1:{worker.port}?" in late.stderr
        worker.listen()
        args = ("--entry", OBEYS, "--url", url, "--keep-values", "all", "-v", "-j")
        with serving(*args, cwd=tmp_path) as program:
            client = worker.accept()
            client.initialize(["raise", "boom"])
            client.expect("initialized")
            client.start()
            client.expect("errorMessage")
    said = [dry.stdout, dry.stderr, late.stdout, late.stderr, *program.stdout, *program.stderr]
    kept = [file.read_text(errors="replace") for file in tmp_path.rglob("*") if file.is_file()]
    assert kept and any("connected to ws://****@" in line for line in said)
    assert "hush" not in "".join(said + kept)
