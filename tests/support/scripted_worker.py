"""A stand-in for HKube's worker that a test scripts line by line; it breaks where the real worker crashes.

    with ScriptedWorker() as worker, serving("--entry", entry, "--url", worker.url):
        client = worker.accept()
        client.initialize([1, 2])
        client.expect("initialized")
        client.start()
        assert client.expect("done")["data"] == 3

This file uses nothing of hkrunner. The test sends; one thread accepts connections, and one thread for each
connection reads and checks every message against the rules of the real worker (HKube's core/worker:
lib/states/stateManager.js, lib/worker.js, lib/algorithm-communication/ws.js). A broken rule is added to
`violations` and ends the worker as it would end the real one: the connection is reset. On exit, a violation
that the test has not taken makes it fail.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import queue
import socket
import struct
import termios
import threading
import time
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import bson
import msgspec
from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

#: WORKER_SOCKET_MAX_PAYLOAD_BYTES
MESSAGE_MAX = 100_000_000
#: timeouts.stop: the pod is killed without `stopped` or `stopping` for this long.
STOP_S = 10.0
#: WRAPPER_TIMEOUT_DURATION: the longest silence after an `alive`.
ALIVE_S = 10.0
#: How long the production worker waits for an algorithm that has disconnected.
WINDOW_S = 5.0
#: Deadline of a message on a busy machine.
DEADLINE_S = 20.0

TEXT, BINARY, CONTINUATION, CLOSE, PING = 1, 2, 0, 8, 9
FINAL = ("done", "errorMessage", "stopped")
#: Commands that the worker handles, and those that only the debug server handles.
KNOWN = {
    *FINAL,
    *("initialized", "started", "stopping", "alive", "progress", "storing", "servingStatus"),
    *("startSpan", "finishSpan", "dataSourceRequest", "streamingStatistics"),
    *("startRawSubPipeline", "startStoredSubPipeline", "stopSubPipeline"),
    *("startAlgorithmExecution", "stopAlgorithmExecution"),
    *("logData", "streamingOutMessage", "streamingInMessageDone"),
}

TASK: dict[str, Any] = {
    "useCache": False,
    "flatInput": None,
    "jobId": "4ispixlx3ka6",
    "taskId": "b6thsibs",
    "input": [],
    "storage": {},
    "nodeName": "green",
    "algorithmName": "green-alg",
    "pipelineName": "simple",
    "kind": "batch",
    "parents": [],
    "childs": [],
    "priority": 3,
    "status": "creating",
    "info": {"savePaths": ["green"], "lastRunResult": None, "rootJobId": None, "extraData": None},
    "spanId": {},
}


def encode(encoding: str, message: Any) -> bytes:
    if encoding == "json":
        return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    if encoding == "bson":
        return bytes(bson.encode({"data": message}))
    return msgspec.msgpack.encode(message)


def decode(encoding: str, data: bytes) -> Any:
    """Decode a message. Raises ValueError where the worker's own decoder throws."""
    try:
        if encoding == "json":
            return json.loads(data.decode(), parse_constant=_no_json)
        if encoding == "bson":
            return bson.decode(data)["data"]
        return msgspec.msgpack.decode(data)
    except (bson.errors.BSONError, KeyError, msgspec.MsgspecError) as error:
        raise ValueError(str(error)) from error


def _no_json(name: str) -> Any:
    raise ValueError(f"Unexpected token {name} in JSON")


def frame(opcode: int, payload: bytes, *, last: bool = True) -> bytes:
    """Return a frame as a server sends it (RFC 6455, 5.2): not masked."""
    first = opcode | (0x80 if last else 0)
    if len(payload) < 126:
        return struct.pack("!BB", first, len(payload)) + payload
    if len(payload) < 65536:
        return struct.pack("!BBH", first, 126, len(payload)) + payload
    return struct.pack("!BBQ", first, 127, len(payload)) + payload


class ScriptedWorker:
    """The worker; it listens on a loopback port until the end of the `with` block."""

    def __init__(
        self,
        *,
        listens: bool = True,
        debug: bool = False,
        storage: str = "v1",
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
        self._threads: list[threading.Thread] = []
        self.lock = threading.RLock()
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port: int = found.getsockname()[1]
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
        listener = socket.create_server(("127.0.0.1", self.port), backlog=16)
        self._listener = listener
        self._run(self._accept, listener)

    def stop_listening(self) -> None:
        """Refuse further clients."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
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

    def _run(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="scripted-worker", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            open_already = [client for client in self.clients if client.is_connected]
            client = Client(self, sock)
            with self.lock:
                self.clients.append(client)
                if open_already and not self.debug:
                    client.broken("a second socket was opened before the first was closed")
            self._run(client.read)

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

    def __enter__(self) -> ScriptedWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None:
            assert not self.violations, f"HKube's worker would have died of: {self.violations}"


class Client:
    """One connection of a client, with which the test sends and expects messages."""

    def __init__(self, worker: ScriptedWorker, sock: socket.socket) -> None:
        self.worker = worker
        self._socket = sock
        self._protocol = ServerProtocol(max_size=MESSAGE_MAX)
        self._parts: list[bytes] = []
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._write = threading.Lock()
        self._reads = threading.Event()
        self._reads.set()
        self._ended = threading.Event()
        self._pongs: queue.Queue[bytes] = queue.Queue()
        self.path = ""
        self.query: dict[str, str] = {}
        self.encoding = "json"
        self.greeted = False
        self.has_spoken = False
        self.connected_at = time.monotonic()
        #: Close code of the client; None without a close frame.
        self.close_code: int | None = None
        self.close_reason = ""
        #: Number of frames of the last complete message.
        self.frame_count = 0
        self.opcode: int | None = None
        #: Reset the connection after this many received bytes.
        self.reset_after_bytes: int | None = None
        #: Received bytes, including the handshake.
        self.received = 0

    # ---- messages to the client

    def send(self, message: Any) -> None:
        """Send one message."""
        self.send_payload(encode(self.encoding, message))

    def send_payload(self, payload: bytes, *, pieces: int = 1, ping_between: bool = False) -> None:
        """Send bytes as one message, split into frames, with a ping before each frame after the first."""
        opcode = TEXT if self.encoding == "json" else BINARY
        size = -(-len(payload) // pieces) or 1
        parts = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
        for i, part in enumerate(parts):
            if i and ping_between:
                self.send_bytes(frame(PING, b"between"))
            self.send_bytes(frame(opcode if i == 0 else CONTINUATION, part, last=i == len(parts) - 1))
        self.spoke()

    def send_bytes(self, data: bytes) -> None:
        """Send raw bytes on the socket."""
        with self._write, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(data)

    def spoke(self) -> None:
        """Record that the worker has sent a message."""
        self.has_spoken = self.worker.has_spoken = True
        if self.worker.state == "bootstrap":
            self.worker.state = "ready"

    def initialize(self, input: Any = (), **more: Any) -> None:
        """Send initialize with the keys of a real worker with storage v1, and with these."""
        task = {**TASK, "input": list(input) if isinstance(input, tuple) else input, **more}
        self.send_initialize({"command": "initialize", "data": task})

    def send_initialize(self, message: dict[str, Any]) -> None:
        """Send any message that begins a task."""
        with self.worker.lock:
            self.worker.state, self.worker.task = "init", message.get("data")
            self.send(message)

    def begin_with(self, payload: bytes) -> None:
        """Send these bytes as the message that begins a task."""
        with self.worker.lock:
            self.worker.state, self.worker.task = "init", None
            self.send_payload(payload)

    def start(self, data: Any = ..., **more: Any) -> None:
        """Send start as the worker does; with an argument, this is its data."""
        self.send({"command": "start", "data": {"spanId": {}} if data is ... else data, **more})

    def stop(self, message: dict[str, Any] | None = None) -> None:
        with self.worker.lock:
            self.worker.state = "stop"
            self.worker.stop_by = time.monotonic() + self.worker.stop_s
            self.send(message or {"command": "stop", "data": {"forceStop": True}})

    def exit(self, message: dict[str, Any] | None = None) -> None:
        self.send(message or {"command": "exit", "data": {"exitCode": 0}})

    def run(self, input: Any = (), **more: Any) -> dict[str, Any]:
        """Run one task to its end and return the answer."""
        self.initialize(input, **more)
        self.expect("initialized")
        self.start()
        return self.answer()

    def ping(self, *, deadline_s: float = DEADLINE_S) -> float:
        """Send a ping; return the seconds until its pong."""
        payload = os.urandom(8)
        began = time.monotonic()
        self.send_bytes(frame(PING, payload))
        while True:
            try:
                if self._pongs.get(timeout=max(0.0, began + deadline_s - time.monotonic())) == payload:
                    return time.monotonic() - began
            except queue.Empty:
                raise AssertionError(f"no pong within {deadline_s:g} s{self.worker._told()}") from None

    # ---- messages of the client

    def receive(self, *, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the next message; skip `started`, which the worker does not handle."""
        end = time.monotonic() + deadline_s
        while True:
            try:
                message = self._messages.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no message within {deadline_s:g} s{self.worker._told()}") from None
            assert message is not None, f"the connection ended{self.worker._told()}"
            if message.get("command") != "started":
                return message

    def expect(self, command: str, *, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the next message; it must have this command."""
        message = self.receive(deadline_s=deadline_s)
        assert message["command"] == command, f"{message!r:.2000} instead of {command}"
        return message

    def answer(self, *, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the next final answer."""
        message = self.receive(deadline_s=deadline_s)
        assert message["command"] in FINAL, f"{message!r:.2000} instead of an answer"
        return message

    def confirm(self) -> None:
        """Send something, so that the client knows that its last answer was read and does not repeat it."""
        self.send({"command": "subPipelineDone", "data": {}})
        self.ping()

    def nothing_more(self) -> None:
        """Check that no further message arrives: a ping is answered after everything that was sent before."""
        self.ping()
        left = list(self._messages.queue)
        assert not [one for one in left if one is None or one.get("command") != "started"], left

    def wait_for_end(self, *, deadline_s: float = DEADLINE_S) -> None:
        """Wait until the client has closed the connection."""
        assert self._ended.wait(deadline_s), f"the connection was not closed within {deadline_s:g} s"

    # ---- faults

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with a close frame, without waiting for the client's."""
        self._dropped()
        self.send_bytes(frame(CLOSE, struct.pack("!H", code) + reason.encode()))
        self._let_go()

    def vanish(self) -> None:
        """End the connection without a close frame (1006)."""
        self._dropped()
        self._let_go()

    def reset(self) -> None:
        """End the connection with a TCP reset: what the client has in flight is lost."""
        self._dropped()
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._let_go()

    def stop_reading(self) -> None:
        """Stop reading: what the client sends stays in the kernel's buffers."""
        self._reads.clear()

    def go_on_reading(self) -> None:
        self._reads.set()

    def unread(self) -> int:
        """Return the number of bytes that have arrived since stop_reading()."""
        count = array.array("i", [0])
        fcntl.ioctl(self._socket, termios.FIONREAD, count)
        return count[0]

    def _let_go(self) -> None:
        self._ended.set()
        self._reads.set()
        # Wake the reader, which closes: a descriptor must not be closed while another thread reads it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _dropped(self) -> None:
        if not self._ended.is_set():
            self.worker.dropped_at = time.monotonic()

    def broken(self, rule: str) -> None:
        """Record a violation and reset the connection: the real worker would have crashed."""
        self.worker.violations.append(rule)
        self.reset()

    # ---- reader thread

    @property
    def is_connected(self) -> bool:
        """Whether the client's end is open, according to the kernel."""
        if self._ended.is_set():
            return False
        try:
            state = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:
            return False
        return state == 1  # TCP_ESTABLISHED

    def read(self) -> None:
        """Read to the end of the connection; runs in a thread of its own."""
        try:
            while not self._ended.is_set():
                self._reads.wait()
                data = self._socket.recv(256 * 1024)
                self.received += len(data)
                if self.reset_after_bytes is not None and self.received >= self.reset_after_bytes:
                    self.reset()
                if not data or self._ended.is_set():
                    break
                self._take(data)
        except OSError:
            pass
        finally:
            self._dropped()
            self._ended.set()
            with self._write:
                self._socket.close()
            self._messages.put(None)

    def _take(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._greet(event)
            elif isinstance(event, Frame):
                self._on_frame(event)
        answer = b"".join(self._protocol.data_to_send())
        if answer:
            self.send_bytes(answer)
        if self.close_code is not None:
            # The server closes the TCP connection first (RFC 6455, 7.1.1).
            self._dropped()
            self._let_go()
        elif self._protocol.parser_exc is not None:
            too_big = isinstance(self._protocol.parser_exc, PayloadTooBig)
            self.broken("Max payload size exceeded" if too_big else f"{self._protocol.parser_exc}")

    def _greet(self, request: Request) -> None:
        self.path = request.path
        query = parse_qs(urlsplit(request.path).query)
        self.query = {name: values[0] for name, values in query.items()}
        self.worker.queries.append(urlsplit(request.path).query)
        self.encoding = self.query.get("encoding", "json")
        self._protocol.send_response(self._protocol.accept(request))
        self.send_bytes(b"".join(self._protocol.data_to_send()))
        self.greeted = True
        self.worker.greeted(self)

    def _on_frame(self, event: Frame) -> None:
        if event.opcode is Opcode.PONG:
            self._pongs.put(bytes(event.data))
        elif event.opcode is Opcode.CLOSE:
            self.close_code = int.from_bytes(bytes(event.data[:2]), "big") if event.data else 1005
            self.close_reason = bytes(event.data[2:]).decode()
        elif event.opcode <= 2:
            if event.opcode is not Opcode.CONT:
                self._parts.clear()
                self.opcode = int(event.opcode)
            self._parts.append(bytes(event.data))
            if event.fin:
                self.frame_count = len(self._parts)
                payload = b"".join(self._parts)
                self._parts.clear()
                self._on_message(payload)

    def _on_message(self, payload: bytes) -> None:
        try:
            message = decode(self.encoding, payload)
        except ValueError as error:
            self.broken(f"a message that is no {self.encoding}: {error}")
            return
        with self.worker.lock:
            self.worker.judge(self, message)
        if not self._ended.is_set():
            self._messages.put(message)
