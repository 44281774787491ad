"""A stand-in for HKube's worker that a test scripts line by line; it breaks where the real worker crashes.

    with ScriptedWorker() as worker, serving("--entry", entry, "--url", worker.url):
        client = worker.accept()
        client.initialize([1, 2])
        client.expect("initialized")
        client.start()
        assert client.expect("done")["data"] == 3

It uses nothing of hkrunner. The test sends; one thread accepts connections, and one thread for each
connection reads and checks every message against the rules of the real worker (HKube's core/worker:
lib/states/stateManager.js, lib/worker.js, lib/algorithm-communication/ws.js). A broken rule is added to
`violations` and ends the worker as it would end the real one: the connection is reset. On exit, a violation
that the test has not taken makes it fail.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from types import TracebackType
from typing import Any

from .ports import HeldPort
from .scripted_client import DEADLINE_S, FINAL, Client

#: timeouts.stop: the pod is killed without `stopped` or `stopping` for this long.
STOP_S = 10.0
#: WRAPPER_TIMEOUT_DURATION: the longest silence after an `alive`.
ALIVE_S = 10.0
#: How long the production worker waits for an algorithm that has disconnected.
WINDOW_S = 5.0
#: Commands that the worker handles, and those that only the debug server handles.
KNOWN = {
    *FINAL,
    *("initialized", "started", "stopping", "alive", "progress", "storing", "servingStatus"),
    *("startSpan", "finishSpan", "dataSourceRequest", "streamingStatistics"),
    *("startRawSubPipeline", "startStoredSubPipeline", "stopSubPipeline"),
    *("startAlgorithmExecution", "stopAlgorithmExecution"),
    *("logData", "streamingOutMessage", "streamingInMessageDone"),
}


class ScriptedWorker:
    """The worker; it listens on a loopback port until the end of the `with` block."""

    #: For so long the end of a connection may come after the begin of the next one.
    overtaken_s = 1.0

    def __init__(
        self,
        *,
        listens: bool = True,
        debug: bool = False,
        stop_s: float = STOP_S,
        window_s: float | None = WINDOW_S,
    ) -> None:
        """Make a worker.

        listens: whether it listens at once; otherwise from listen() on
        debug: be HKube's debug server, which forwards no stop, sends initialize and start again after a
            reconnect, and closes the connection of a second client with 4001
        window_s: how long a client may be disconnected; None: for ever, as in DEV_MODE
        """
        self.debug = debug
        self.stop_s = stop_s
        self.window_s = window_s
        self.violations: list[str] = []
        self.queries: list[str] = []
        self.clients: list[Client] = []
        #: A task that the next client gets together with its handshake.
        self.next_task: dict[str, Any] | None = None
        self.begin_life()
        self._accepted: queue.Queue[Client] = queue.Queue()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._threads: list[threading.Thread] = []
        self.lock = threading.RLock()
        self._held = HeldPort()
        self.port = self._held.number
        if listens:
            self.listen()

    def begin_life(self) -> None:
        """Forget everything, as a worker that has just been started."""
        self.state = "bootstrap"
        self.has_spoken = False
        self.task: dict[str, Any] | None = None
        self.last_answer: dict[str, Any] | None = None
        self.stop_by = 0.0
        self.alive_by: float | None = None
        self.dropped_at: float | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    # ---- connections

    def listen(self) -> None:
        listener = self._listener = self._held.listen()
        self._acceptor = self._run(self._accept, listener)

    def stop_listening(self) -> None:
        """Refuse further clients; whoever was accepted before is among `clients`."""
        listener, self._listener = self._listener, None
        if listener is not None and self._acceptor is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            self._acceptor.join()
            listener.close()

    def restart(self, *, fresh: bool = True) -> None:
        """Restart on the same port; `fresh`: forget everything."""
        self.go_down()
        if fresh:
            self.begin_life()
        self.listen()

    def go_down(self) -> None:
        self.stop_listening()
        for client in self.clients:
            client.reset()

    def accept(self, *, deadline_s: float = DEADLINE_S) -> Client:
        """Return the next client, after its handshake."""
        try:
            return self._accepted.get(timeout=deadline_s)
        except queue.Empty:
            raise AssertionError(f"no client within {deadline_s:g} s{self._told()}") from None

    def take_violations(self) -> list[str]:
        """Return the violations so far; they no longer fail the test."""
        taken, self.violations = self.violations, []
        return taken

    def _told(self) -> str:
        return f"; violations: {self.violations}" if self.violations else ""

    def _run(self, target: Any, *args: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, name="scripted-worker", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = Client(self, sock)
            is_second = not self.debug and not self._are_closed()
            with self.lock:
                self.clients.append(client)
                if is_second:
                    client.broken("a second socket was opened before the first was closed")
            self._run(client.read)

    def _are_closed(self) -> bool:
        """Whether no client is connected. On a busy machine the kernel may let a new connection in before it
        has handed over the end of the last one, which was sent before."""
        end = time.monotonic() + self.overtaken_s
        while any(client.is_connected for client in self.clients):
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    def greeted(self, client: Client) -> None:
        """Begin to serve a client whose handshake is done, or refuse it."""
        with self.lock:
            others = [one for one in self.clients if one is not client and one.greeted and one.is_connected]
            if self.debug and others:
                client.send({"command": "alreadyConnectedError", "data": {"hostname": "pc1"}})
                client.close(4001)
                return
            if self.debug and "encoding" not in client.query:
                client.broken("the debug server needs the encoding in the query")
            if self.window_s is not None and self.dropped_at is not None and self.has_spoken:
                away_s = time.monotonic() - self.dropped_at
                if away_s > self.window_s:
                    client.broken(f"it came back after {away_s:.1f} s, when the pod was gone")
            if self.debug and self.task is not None:
                # The debug server sends both again for a task without an answer.
                client.send({"command": "initialize", "data": self.task})
                client.send({"command": "start", "data": self.task})
            task, self.next_task = self.next_task, None
            if task is not None:
                client.send_initialize({"command": "initialize", "data": task})
        self._accepted.put(client)

    # ---- rules of the real worker

    def judge(self, client: Client, message: Any) -> None:
        """Check one message against the rules of the real worker."""
        now = time.monotonic()
        if not isinstance(message, dict):
            client.broken(f"a message that is no object: {message!r:.80}")
            return
        command = message.get("command")
        if not isinstance(command, str):
            client.broken(f"a message without a command: {message!r:.80}")
        elif command in ("error", "connection", "disconnect"):
            client.broken(f"the command {command!r} is an event of the worker's socket")
        elif command not in KNOWN:
            client.broken(f"the command {command!r}, which nobody knows")
        elif not self.has_spoken:
            client.broken(f"`{command}` before the worker has said anything")
        elif not client.has_spoken and (self.dropped_at is None or now - self.dropped_at > WINDOW_S):
            client.broken(f"`{command}` on a new socket before the worker has said anything there")
        elif not self.debug:
            self._judge_in_state(client, command, message, now)
        elif command in ("done", "errorMessage"):
            self.task = None

    def _judge_in_state(self, client: Client, command: str, message: dict[str, Any], now: float) -> None:
        if self.alive_by is not None and now > self.alive_by and self.state in ("init", "working"):
            client.broken("more than 10 s without `alive` after the first one")
            return
        data = message.get("data")
        if command == "initialized":
            if self.state != "init":
                client.broken(f"`initialized` in {self.state}")
            self.state = "working"
        elif command == "alive":
            # If it crosses a stop, the `stopped` that follows cancels this timer.
            if self.state not in ("init", "working", "stop"):
                client.broken(f"`alive` in {self.state}: the worker exits 10 s later")
            self.alive_by = now + ALIVE_S
        elif command == "stopping":
            if self.state != "stop":
                client.broken(f"`stopping` in {self.state}: the worker exits 10 s later")
            self.stop_by = now + self.stop_s
        elif command == "stopped":
            if self.state != "stop":
                client.broken(f"`stopped` in {self.state}")
            elif now > self.stop_by:
                client.broken(f"`stopped` {now - self.stop_by:.1f} s too late: the pod was killed")
            self._answered()
        elif command in ("done", "errorMessage"):
            self._judge_answer(client, command, message)
        elif command == "dataSourceRequest" and not isinstance(data, dict):
            client.broken("`dataSourceRequest` without data")
        elif command == "startAlgorithmExecution":
            if not (isinstance(data, dict) and isinstance(data.get("execId"), str) and data["execId"]):
                client.broken("data.execId should be string")
            elif not isinstance(data.get("input"), list):
                client.broken("data.input should be array")
        elif command in ("startRawSubPipeline", "startStoredSubPipeline") and not (
            isinstance(data, dict) and isinstance(data.get("subPipelineId"), str)
        ):
            client.broken("data.subPipelineId should be string")

    def _judge_answer(self, client: Client, command: str, message: dict[str, Any]) -> None:
        error = message.get("error")
        if command == "errorMessage" and not (
            isinstance(error, dict) and isinstance(error.get("message"), str) and error["message"]
        ):
            client.broken("an errorMessage that the worker would call an unknown error")
        if self.state == "stop":
            return  # ignored: the worker still waits for `stopped`
        if self.state == "ready" and message == self.last_answer and not client.has_spoken:
            return  # may be repeated after a reconnect: the worker ignores it
        self.last_answer = message
        if command == "done" and self.state == "init":
            client.broken("`done` in init: the task succeeds without ever having been started")
        elif self.state not in ("init", "working"):
            client.broken(f"`{command}` in {self.state}: nobody waits for an answer")
        self._answered()

    def _answered(self) -> None:
        self.state, self.task, self.alive_by = "ready", None, None

    # ---- the end

    def close(self) -> None:
        self.go_down()
        for thread in self._threads:
            thread.join(timeout=10)
        self._held.close()

    def __enter__(self) -> ScriptedWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None:
            assert not self.violations, f"HKube's worker would have died of: {self.violations}"
