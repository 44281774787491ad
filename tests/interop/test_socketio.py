"""hkrunner as a client of the real socket.io 2 server, which HKube's worker uses."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest
from support.local import ALGORITHMS
from support.programs import serving
from support.socketio_worker import SocketioWorker

# The first one installs the package.
pytestmark = pytest.mark.timeout(400)

OBEYS = ALGORITHMS / "obeys.py"


def test_tasks_are_served_over_socketio(tmp_path: Path) -> None:
    with SocketioWorker() as worker:
        variables = {
            "WORKER_ALGORITHM_PROTOCOL": "socket",
            "WORKER_ALGORITHM_ENCODING": "bson",
            "WORKER_SOCKET_URL": worker.url,
        }
        with serving("--entry", OBEYS, cwd=tmp_path, env=variables) as program:
            seen = worker.expect("connection")
            assert seen == {"event": "connection", "transport": "websocket", "sockets": 1}
            value = {"text": 'ünï " \\ ] \u2028', "numbers": [1, 2.5, None, True], "deep": {"er": [[]]}}
            assert worker.answer("give", value) == {"command": "done", "data": value}
            error = worker.answer("raise", "boom", task="t2")
            assert error["command"] == "errorMessage"
            assert "boom" in error["error"]["message"]
            # Large ones, in both directions.
            assert worker.answer("measure", {"$text": 3_000_000}, task="t3")["data"] == 3_000_000
            assert worker.answer("text", 20_000_000, task="t4")["data"] == {"$length": 20_000_000}
            # Bytes, in both directions.
            parts = [b"\x00\xff\x10", b"", bytes(range(256)) * 2000]
            value = {"parts": [{"$bytes": base64.b64encode(one).decode()} for one in parts], "more": [1, "x"]}
            assert worker.answer("give", value, task="t5")["data"] == value
            assert worker.answer("measure", {"$zeros": 5_000_000}, task="t6")["data"] == 5_000_000
            assert worker.answer("bytes", 20_000_000, task="t7")["data"] == {"$size": 20_000_000}
            error = worker.answer("give", [value["parts"][0]] * 11, task="t8")
            assert (
                error["error"]["message"]
                .partition(": ")[2]
                .startswith("11 values of bytes are too many for a message over")
            )
            # A stop, and the answers after the connection is lost in each way.
            worker.initialize("wait for stop", task="t9")
            worker.expect("initialized")
            worker.send("start")
            worker.expect("started")
            worker.send("stop", {"forceStop": True})
            assert worker.expect("stopped")["message"] == {"command": "stopped"}
            for number, (act, reason) in enumerate(
                [
                    ("disconnect", "41: socket.io's disconnect"),
                    ("engineClose", "1: Engine.IO's close"),
                    ("reset", "connection reset by peer"),
                ]
            ):
                gate = tmp_path / f"gate{number}"
                worker.initialize("wait for file", str(gate), task=f"d{number}")
                worker.expect("initialized")
                worker.send("start")
                worker.expect("started")
                worker.act(act)
                worker.expect("disconnect")
                worker.expect("connection")
                program.wait_for_line(reason)
                gate.write_text("")
                assert worker.expect("done")["message"]["data"] == "there"
            worker.send("exit", {"exitCode": 0})
            assert program.wait() == 0
            assert worker.expect("disconnect")["reason"] == "client namespace disconnect"
            assert worker.is_silent


def test_a_program_is_served_over_socketio(tmp_path: Path) -> None:
    program = f"{sys.executable} {ALGORITHMS / 'any_program.py'}"
    options = ("--transport", "socketio", "--connect-timeout", "20")
    with (
        SocketioWorker(ping_timeout_s=1.0) as worker,
        serving("--command", program, *options, "--url", worker.url, cwd=tmp_path) as hkrunner,
    ):
        worker.expect("connection")
        # It pings on its own, also before the worker has given it a task.
        worker.expect_ping()
        value = ["x", {"$bytes": "AP8="}]
        assert worker.answer("give", value)["data"] == ["x", "AP8="]
        worker.send("exit", {"exitCode": 0})
        assert hkrunner.wait() == 0
