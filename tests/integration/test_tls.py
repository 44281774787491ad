"""A worker behind TLS, and one that a plain address redirects to.

The certificate beside the data of these tests is for this machine alone, and its key is no secret.
"""

from __future__ import annotations

import contextlib
import gc
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.local import ALGORITHMS
from support.programs import serving
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

TLS = Path(__file__).with_name("data") / "tls"
#: Takes some records of TLS, in both directions.
LARGE = "x" * 3_000_000


class Worker:
    """Hands out two tasks to each client, and keeps the answers."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.done = threading.Event()

    def serve(self, client: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            for value in (1, LARGE):
                data = {"taskId": f"t{len(self.answers)}", "input": ["give", value]}
                client.send(json.dumps({"command": "initialize", "data": data}))
                self.expect(client, "initialized")
                client.send(json.dumps({"command": "start"}))
                self.answers.append(self.expect(client, "done")["data"])
            self.done.set()
            client.send(json.dumps({"command": "exit", "data": {"exitCode": 0}}))
            client.recv()

    def expect(self, client: ServerConnection, command: str) -> Any:
        while (message := json.loads(client.recv()))["command"] != command:
            assert message["command"] in ("started", "alive"), message
        return message


@contextlib.contextmanager
def running(server: Server) -> Iterator[int]:
    """Yields its port."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        thread.join()
        gc.collect()  # it leaves its selector to the collector


@contextlib.contextmanager
def behind_tls(worker: Worker) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    with serve(worker.serve, "127.0.0.1", 0, ssl=context, max_size=None) as server, running(server) as port:
        yield port


def check(url: str, worker: Worker, tmp_path: Path) -> None:
    env = {"SSL_CERT_FILE": str(TLS / "cert.pem")}
    with serving("--entry", ALGORITHMS / "obeys.py", "--url", url, cwd=tmp_path, env=env) as program:
        assert program.wait() == 0, program.report()
    assert worker.done.is_set()
    assert worker.answers == [1, LARGE]


def test_a_worker_behind_tls_is_served(tmp_path: Path) -> None:
    worker = Worker()
    with behind_tls(worker) as port:
        check(f"wss://localhost:{port}", worker, tmp_path)


def test_a_plain_address_that_redirects_to_tls_is_followed(tmp_path: Path) -> None:
    worker = Worker()
    with behind_tls(worker) as port:

        def redirect(client: ServerConnection, request: Request) -> Response:
            response = client.respond(308, "over there\n")
            response.headers["Location"] = f"wss://localhost:{port}{request.path}"
            return response

        with (
            serve(worker.serve, "127.0.0.1", 0, process_request=redirect) as plain,
            running(plain) as plain_port,
        ):
            check(f"ws://127.0.0.1:{plain_port}", worker, tmp_path)


def test_a_certificate_that_no_authority_has_signed_is_reported(tmp_path: Path) -> None:
    with (
        behind_tls(Worker()) as port,
        serving(
            "--entry", ALGORITHMS / "obeys.py", "--url", f"wss://localhost:{port}", cwd=tmp_path
        ) as program,
    ):
        program.wait_for_line("certificate verify failed")
