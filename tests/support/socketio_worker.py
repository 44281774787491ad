"""HKube's worker on the real socket.io 2 server, which runs in node; the test says what it does."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from . import npm

SCRIPT = Path(__file__).with_suffix(".js")
#: The version that the lock of HKube's worker names (core/worker/package-lock.json).
PACKAGE = "socket.io@2.5.0"
DEADLINE_S = 30.0


class SocketioWorker:
    """One process of node that listens on a loopback port until the end of the `with` block."""

    def __init__(self, *, ping_timeout_s: float = 30.0) -> None:
        """`ping_timeout_s`: WORKER_SOCKET_PING_TIMEOUT; the client pings every two of them."""
        # Not in a file beside the package: a test beside this one would read what is being written.
        self._process = subprocess.Popen(
            ["node", "-e", SCRIPT.read_text("utf-8"), str(int(ping_timeout_s * 1000))],
            cwd=npm.folder_with(PACKAGE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self.port: int = self.expect("listening")["port"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    # ---- what it does

    def act(self, act: str, **more: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"act": act, **more}) + "\n")
        self._process.stdin.flush()

    def send(self, command: str, data: Any = None) -> None:
        """Emit a message as HKube's worker does."""
        message = {"command": command} if data is None else {"command": command, "data": data}
        self.act("send", message=message)

    def initialize(self, *inputs: Any, task: str = "t1") -> None:
        self.send("initialize", {"taskId": task, "jobId": "j1", "input": list(inputs)})

    # ---- what it has seen

    def next(self) -> dict[str, Any]:
        """Return what has happened next, other than pings and signs of life."""
        while True:
            one = self._events.get(timeout=DEADLINE_S)
            assert one is not None, "node has ended"
            if one["event"] not in ("ping", "alive", "stopping"):
                return one

    def expect(self, event: str) -> dict[str, Any]:
        """Return what has happened next, which is this event."""
        one = self.next()
        assert one["event"] == event, one
        return one

    def expect_ping(self) -> None:
        """Wait for the client's next ping."""
        while (one := self._events.get(timeout=DEADLINE_S)) is None or one["event"] != "ping":
            assert one is not None, "node has ended"

    def answer(self, *inputs: Any, task: str = "t1") -> dict[str, Any]:
        """Give a task to the client, and return its final answer."""
        self.initialize(*inputs, task=task)
        self.expect("initialized")
        self.send("start")
        self.expect("started")
        answer: dict[str, Any] = self.next()["message"]
        return answer

    @property
    def is_silent(self) -> bool:
        """Whether everything that has happened was expected."""
        return self._events.empty()

    def __enter__(self) -> SocketioWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        self._thread.join()
        self._process.stdout.close()
