"""A stand-in for HKube's worker: a WebSocket server that hands tasks to whatever wrapper connects.

It speaks as the real one (HKube core/worker lib/algorithm-communication/ws.js): the query chooses the
encoding, the first message is the worker's, one task at a time goes through initialize, initialized,
start, then one of done, errorMessage and stopped. Where the real one dies of a client's mistake, this one
says what the mistake was. The bytes are handled by websockets' protocol core; the sockets belong to the
loop that runs everything else.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State as WireState
from websockets.server import ServerProtocol

from ...sandbox import codec
from ..loop import Loop

CHUNK = 256 * 1024


@dataclass(frozen=True)
class LocalTask:
    """A task to hand out; `input` is JSON text of a list."""

    task: str
    job: str
    node: str
    algorithm: str
    pipeline: str
    input: bytes


@dataclass(frozen=True)
class Answer:
    """How a task was answered: `command` is done, errorMessage or stopped; `message` the decoded whole,
    None for a `done` whose data nobody asked to decode."""

    task: LocalTask
    command: str
    message: dict[str, Any]


class TaskState(Enum):
    """Where the task that was handed out stands."""

    NONE = auto()
    INITIALIZING = auto()
    WORKING = auto()
    STOPPING = auto()


class LocalWorker:
    """Listens on one port, serves one client at a time."""

    def __init__(
        self,
        loop: Loop,
        *,
        on_answer: Callable[[Answer], None],
        on_problem: Callable[[str], None],
        on_client: Callable[[bool], None] = lambda there: None,
    ) -> None:
        self._loop = loop
        self._on_answer = on_answer
        self._on_problem = on_problem
        self._on_client = on_client
        self._queue: deque[LocalTask] = deque()
        self._task: LocalTask | None = None
        self._state = TaskState.NONE
        self._listener: socket.socket | None = None
        self._client: _Client | None = None

    def listen(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; return the port. Raises OSError when it is taken."""
        self._listener = socket.create_server((host, port))
        self._listener.setblocking(False)
        self._loop.on_readable(self._listener, self._accept)
        found: int = self._listener.getsockname()[1]
        return found

    def submit(self, task: LocalTask) -> None:
        """Hand the task out when the client is free."""
        self._queue.append(task)
        self._next()

    def stop(self, *, force: bool = True) -> None:
        """Ask the client to stop the task it works on."""
        if self._state is TaskState.WORKING:
            self._state = TaskState.STOPPING
            self._say({"command": "stop", "data": {"forceStop": force}})

    def exit(self, code: int = 0) -> None:
        """Ask the client to end."""
        self._say({"command": "exit", "data": {"exitCode": code}})

    def close(self) -> None:
        """Close everything."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._listener is not None:
            self._loop.on_readable(self._listener, None)
            self._listener.close()
            self._listener = None

    @property
    def connected(self) -> bool:
        """A client is there, its handshake done."""
        return self._client is not None and self._client.ready

    # ---- the protocol

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            if self._client is not None:
                # The real worker would take it and then lose both (PROTOCOL 1.9).
                self._on_problem("a second client connected while the first is served; it was refused")
                sock.close()
                return
            self._client = _Client(self._loop, sock, self)

    def client_ready(self) -> None:
        """The handshake is done."""
        self._on_client(True)
        self._next()

    def client_gone(self, reason: str) -> None:
        """The client has disconnected; its task, if any, is handed to the next one from the start."""
        self._client = None
        if self._task is not None:
            self._on_problem(f"the client disconnected in the middle of task {self._task.task}: {reason}")
            self._queue.appendleft(self._task)
            self._task, self._state = None, TaskState.NONE
        self._on_client(False)

    def client_said(self, message: Any) -> None:
        """One decoded message of the client."""
        command = message.get("command") if isinstance(message, dict) else None
        if not isinstance(command, str):
            self._on_problem("the client sent a message without a command; HKube's worker would die of it")
            return
        if command == "initialized":
            if self._state is not TaskState.INITIALIZING:
                self._on_problem("`initialized` came unasked; HKube's worker would exit")
                return
            self._state = TaskState.WORKING
            self._say({"command": "start", "data": {"spanId": {}}})
        elif command in ("done", "errorMessage", "stopped"):
            self._answered(command, message)

    def _answered(self, command: str, message: dict[str, Any]) -> None:
        if self._task is None:
            self._on_problem(f"`{command}` came while there was no task; ignored")
            return
        if self._state is TaskState.STOPPING and command != "stopped":
            return  # the real worker drops it too, and goes on waiting for `stopped`
        task, self._task, self._state = self._task, None, TaskState.NONE
        self._on_answer(Answer(task, command, message))
        self._next()

    def _next(self) -> None:
        if self._task is not None or not self._queue or not self.connected:
            return
        assert self._client is not None
        self._task = task = self._queue.popleft()
        self._state = TaskState.INITIALIZING
        self._client.send(_initialize(task, self._client.encoding))

    def _say(self, message: dict[str, Any]) -> None:
        if self._client is not None and self._client.ready:
            self._client.send(codec.encode(self._client.encoding, message, name="message"))


def _initialize(task: LocalTask, encoding: str) -> bytes:
    """Return the initialize message: the keys a real worker sends under storage v1."""
    data: dict[str, Any] = {
        "useCache": False,
        "flatInput": None,
        "jobId": task.job,
        "taskId": task.task,
        "input": None,
        "storage": {},
        "nodeName": task.node,
        "algorithmName": task.algorithm,
        "pipelineName": task.pipeline,
        "kind": "batch",
        "parents": [],
        "childs": [],
        "priority": 3,
        "status": "creating",
        "info": {"savePaths": [], "lastRunResult": None, "rootJobId": None, "extraData": None},
        "spanId": {},
    }
    message = {"command": "initialize", "data": data}
    if encoding != "json":
        data["input"] = codec.decode("json", task.input)
        return codec.encode(encoding, message, name="input")
    # The input travels as it was written: nothing is decoded, nothing rounded.
    whole = codec.encode("json", message, name="input")
    begin, mark, end = whole.partition(b'"input":null')
    return begin + mark[:-4] + task.input + end


class _Client:
    """One connection: bytes in and out of websockets' protocol core."""

    def __init__(self, loop: Loop, sock: socket.socket, worker: LocalWorker) -> None:
        self._loop = loop
        self._socket = sock
        self._worker = worker
        self._protocol = ServerProtocol(max_size=None)
        self._out: deque[memoryview] = deque()
        self._parts: list[bytes] = []
        self.encoding = "json"
        self.ready = False
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop.on_readable(sock, self._read)

    def send(self, data: bytes) -> None:
        if self._protocol.state is not WireState.OPEN:
            return
        if self.encoding == "json":
            self._protocol.send_text(data)
        else:
            self._protocol.send_binary(data)
        self._flush()

    def close(self) -> None:
        self._loop.on_readable(self._socket, None)
        self._loop.on_writable(self._socket, None)
        self._socket.close()

    def _gone(self, reason: str) -> None:
        if self._socket.fileno() >= 0:
            self.close()
            self._worker.client_gone(reason)

    def _read(self) -> None:
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._gone(error.strerror or str(error))
            return
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._greet(event)
            else:
                self._take(event)
            if self._socket.fileno() < 0:
                return
        self._flush()
        if not data:
            self._gone("connection closed")

    def _greet(self, request: Request) -> None:
        query = parse_qs(urlsplit(request.path).query)
        self.encoding = query.get("encoding", ["json"])[0]
        storage = query.get("storage", ["v1"])[0]
        if self.encoding not in codec.ENCODINGS or storage != "v1":
            self._worker._on_problem(
                f"a client asked for encoding={self.encoding}, storage={storage}; "
                f"there is: {', '.join(codec.ENCODINGS)}, and storage v1"
            )
            self._protocol.send_response(self._protocol.reject(400, "encoding or storage not served\n"))
            return
        self._protocol.send_response(self._protocol.accept(request))
        if self._protocol.state is WireState.OPEN:
            self._flush()
            self.ready = True
            self._worker.client_ready()

    def _take(self, event: Any) -> None:
        if not isinstance(event, Frame) or event.opcode > 0x2:
            return  # the protocol core answers pings and closes
        if event.opcode is not Opcode.CONT:
            self._parts.clear()
        self._parts.append(bytes(event.data))
        if not event.fin:
            return
        data = b"".join(self._parts) if len(self._parts) > 1 else self._parts[0]
        self._parts.clear()
        if len(data) > codec.MESSAGE_LIMIT:
            self._worker._on_problem(
                f"a message of {len(data):,} bytes; HKube's worker takes at most {codec.MESSAGE_LIMIT:,}"
            )
        try:
            message = codec.decode(self.encoding, data)
        except ValueError as error:
            self._worker._on_problem(
                f"a message that is no {self.encoding}; HKube's worker would die of it: {error}"
            )
            return
        self._worker.client_said(message)

    def _flush(self) -> None:
        self._out.extend(memoryview(data) for data in self._protocol.data_to_send() if data)
        closing = self._protocol.close_expected() and not self._out
        try:
            while self._out:
                sent = self._socket.send(self._out[0])
                if sent == len(self._out[0]):
                    self._out.popleft()
                else:
                    self._out[0] = self._out[0][sent:]
        except BlockingIOError:
            self._loop.on_writable(self._socket, self._flush)
            return
        except OSError as error:
            self._gone(error.strerror or str(error))
            return
        self._loop.on_writable(self._socket, None)
        if closing:
            self._gone("closed by the client")
