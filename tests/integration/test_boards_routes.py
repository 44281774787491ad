"""HKube's board routes over HTTP, with real boards, checked against its published description."""

from __future__ import annotations

import http.client
import json
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hkrunner.boards.errors import BoardError
from hkrunner.boards.manager import BoardManager
from hkrunner.boards.rest_server import RestProcess
from support.boards import BOARD_DEADLINE_S, add_run, get, python_with, runs_of
from support.routes import Client, running
from support.waiting import wait_until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "state"
    add_run(root, "task1")
    return root


def listening(process: RestProcess) -> Client:
    while process.url is None and process.error is None:
        assert select.select([process], [], [], BOARD_DEADLINE_S)[0], "nothing was said"
        process.poll()
    if process.url is None:
        raise BoardError(process.error or "")
    return Client(process.url)


@pytest.fixture
def client(root: Path) -> Iterator[Client]:
    process = RestProcess(root)
    try:
        yield listening(process)
    finally:
        process.stop()
    assert [path.name for path in (root / "boards").iterdir() if path.suffix == ".json"] == []


def test_a_board_goes_through_hkubes_states_and_can_be_visited_and_deleted(client: Client) -> None:
    assert client("GET", "/") == (200, {"message": "v1 boards api"})
    assert client("GET", "/tensors") == (200, [])
    started = (200, {"id": "job1:train", "message": "Board started successfully"})
    assert client("POST", "/tensors", {"jobId": "job1", "nodeName": "train"}) == started
    board = running(client, "job1:train")
    (listed,) = client("GET", "/tensors/")[1]
    assert {**listed, "timestamp": 0} == {**board, "timestamp": 0}, "its runs may have come in between"
    assert (board["type"], board["pipelineName"], board["nodeName"]) == ("batch", "mnist", "train")
    assert isinstance(board["timestamp"], int) and isinstance(board["startTime"], int)

    status, body = get(client.url.removesuffix("/api/v1/boards") + "/" + board["boardLink"])
    assert status == 302 and json.loads(body) == {"message": "Found"}
    status, answer = client("POST", "/tensors", {"jobId": "job1", "nodeName": "train"})
    assert status == 400 and answer["error"]["details"].endswith("already started and is in running status")

    assert client("DELETE", "/tensors/job1%3Atrain") == (200, {"message": "Board deleted"})
    assert client("GET", "/tensors/job1%3Atrain")[0] == 404


def test_several_boards_run_at_once_and_a_link_leads_to_each(client: Client) -> None:
    client("POST", "/tensors", {"jobId": "job1", "taskId": "task1"})
    client("POST", "/tensors", {"pipelineName": "mnist", "nodeName": "train"})
    assert running(client, "task1")["taskId"] == "task1"
    assert running(client, "mnist:train")["type"] == "node"
    assert len(client("GET", "/tensors")[1]) == 2
    link = running(client, "task1")["boardLink"]
    host = client.url.removeprefix("http://").partition("/")[0]
    connection = http.client.HTTPConnection(host)
    connection.request("GET", f"/{link}")
    location = connection.getresponse().headers["Location"]
    connection.close()
    wait_until(lambda: runs_of(location) == ["task1"], what="the run")


#: Wrong requests, and the status of the answer.
WRONG: list[tuple[str, str, object, int]] = [
    ("POST", "/tensors", {"taskId": "t"}, 400),
    ("POST", "/tensors", b'{"nodeName": @}', 400),
    ("POST", "/tensors", {"jobId": "no", "nodeName": "n"}, 404),
    ("GET", "/tensors/no", None, 404),
    ("DELETE", "/tensors/no", None, 404),
    ("GET", "/nothing", None, 404),
    ("POST", "/tensors", b"x" * (2 << 20), 413),
]


def test_errors_have_hkubes_form(client: Client) -> None:
    for method, path, body, status in WRONG:
        answered, value = client(method, path, body)
        assert answered == status == value["error"]["code"] and value["error"]["message"], (method, path)


def test_a_client_that_sends_too_large_a_body_reads_why(client: Client) -> None:
    """http.client sends the whole body before it reads."""
    for size in [2 << 20, 40 << 20] * 5:
        status, value = client("POST", "/tensors", b"x" * size)
        assert (status, value["error"]["message"]) == (413, "request entity too large")


def test_a_body_of_unknown_length_is_refused_and_its_client_reads_why(client: Client) -> None:
    host = client.url.removeprefix("http://").partition("/")[0]
    connection = http.client.HTTPConnection(host, timeout=30)
    parts = iter([b"x" * (1 << 20)] * 20)
    connection.request("POST", "/api/v1/boards/tensors", parts, encode_chunked=True)
    assert connection.getresponse().status == 411
    connection.close()


def test_a_client_that_asks_first_need_not_send_too_large_a_body(client: Client) -> None:
    with raw_connection(client) as connection:
        head = f"POST /api/v1/boards/tensors HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2 << 20}\r\n"
        connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_body_without_end_is_not_read_for_ever(client: Client) -> None:
    with raw_connection(client) as connection:
        head = (
            "POST /api/v1/boards/tensors HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n"
        )
        connection.sendall(head.encode())
        sent, chunk = 0, b"x" * (1 << 20)
        with pytest.raises(ConnectionError):
            while sent < 1 << 30:
                connection.sendall(chunk)
                sent += len(chunk)
        assert sent < 1 << 28


def raw_connection(client: Client) -> socket.socket:
    host, _, port = client.url.removeprefix("http://").partition("/")[0].partition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def test_no_web_page_can_use_the_routes(client: Client) -> None:
    assert client("GET", "/tensors", headers={"Host": "evil.example.com"})[0] == 403
    body = {"jobId": "job1", "nodeName": "train"}
    status, value = client("POST", "/tensors", body, headers={"Content-Type": "text/plain"})
    assert (status, value["error"]["message"]) == (400, "Must supply nodeName")


def test_a_slow_client_delays_no_other(client: Client) -> None:
    host, _, port = client.url.removeprefix("http://").partition("/")[0].partition(":")
    slow = http.client.HTTPConnection(host, int(port))
    slow.connect()
    slow.putrequest("POST", "/api/v1/boards/tensors")
    slow.putheader("Content-Length", "10")
    slow.endheaders(b"{")
    assert client("GET", "/tensors") == (200, [])
    slow.close()


def test_a_board_of_the_command_line_is_seen_and_stopped_by_the_routes(client: Client, root: Path) -> None:
    from hkrunner.boards.targets import task_target

    manager = BoardManager(root)
    manager.start(task_target(root, "task1"))
    running(client, "task1")
    assert client("DELETE", "/tensors/task1")[0] == 200
    wait_until(lambda: manager.poll() and not manager.fds(), what="its end")
    manager.close()


def test_a_port_in_use_is_reported(client: Client, root: Path) -> None:
    port = int(client.url.split(":")[2].split("/")[0])
    process = RestProcess(root, port=port)
    with pytest.raises(
        BoardError, match=f"the board routes cannot listen on port {port}: Address already in use"
    ):
        listening(process)
    process.stop()
    assert process.poll() is False


def test_routes_and_boards_end_with_the_process_that_started_them(root: Path) -> None:
    program = (
        "import select, sys; from pathlib import Path\n"
        "from hkrunner.boards.rest_server import RestProcess\n"
        "process = RestProcess(Path(sys.argv[1]))\n"
        "while not process.url: select.select([process], [], []); process.poll()\n"
        "print(process.url, flush=True); input()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdout is not None and owner.stdin is not None
    client = Client(owner.stdout.readline().decode().strip())
    client("POST", "/tensors", {"jobId": "job1", "taskId": "task1"})
    running(client, "task1")
    (board,) = BoardManager(root).boards()
    owner.kill()
    owner.communicate()
    assert board.process is not None and board.data_server is not None
    for process in (board.process, board.data_server):
        wait_until(lambda process=process: not process.is_alive(), what="the end of the board")
    assert BoardManager(root).boards() == []


# --- optuna


STUB = """
import json
def wsgi(storage):
    def application(environ, start_response):
        path = environ["PATH_INFO"]
        body = json.dumps({"study_summaries": [{"study_id": 1}], "storage": storage}).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]
    return application
"""


@pytest.fixture
def stub_dashboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    site = tmp_path / "site"
    (site / "optuna_dashboard").mkdir(parents=True)
    (site / "optuna_dashboard" / "__init__.py").write_text(STUB)
    (site / "optuna_dashboard-0.21.0.dist-info").mkdir()
    (site / "optuna_dashboard-0.21.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: optuna-dashboard\nVersion: 0.21.0\n"
    )
    return lambda: monkeypatch.setattr(sys, "executable", str(python_with(site, tmp_path / "python")))


def test_an_optuna_board_serves_the_study_of_a_job(root: Path, stub_dashboard: Callable[[], None]) -> None:
    stub_dashboard()
    study = root / "runs" / "mnist" / "train" / "job1" / "task1" / "study.db"
    study.write_bytes(b"SQLite format 3\x00")
    process = RestProcess(root)
    try:
        client = listening(process)
        status, answer = client("POST", "/optunas", {"jobId": "job1"})
        assert status == 200 and answer["boardUrl"].endswith("/dashboard")
        wait_until(
            lambda: client("GET", "/optunas/job1")[1]["status"] == "running",
            deadline_s=BOARD_DEADLINE_S,
            what="the board",
        )
        (board,) = BoardManager(root).boards()
        assert board.url is not None and board.url.endswith(answer["boardUrl"])
        base = board.url.removesuffix(answer["boardUrl"])
        assert get(f"{base}api/studies")[0] == 403
        assert get(board.url)[0] == 302
        status, body = get(f"{base}api/studies", headers={"Cookie": f"hkrunner-board={board.reference}"})
        assert status == 200 and json.loads(body)["storage"] == f"sqlite:///{study}"
        assert client("DELETE", "/optunas/job1") == (200, {"message": "Board deleted"})
    finally:
        process.stop()
