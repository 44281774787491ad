"""One connection of a client to the scripted worker, with which a test sends and expects messages."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import queue
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from .worker_wire import BINARY, CLOSE, CONTINUATION, MESSAGE_MAX, PING, TASK, TEXT, decode, encode, frame

if TYPE_CHECKING:
    from .scripted_worker import ScriptedWorker

#: Deadline of a message on a busy machine.
DEADLINE_S = 30.0

FINAL = ("done", "errorMessage", "stopped")
#: What a client sends when 4 s of a task or of a stop have passed, as may happen on a busy machine.
SIGNS_OF_LIFE = frozenset(("alive", "stopping"))


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
        self._reading = threading.Lock()  #: held while something is read
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
            is_last = i == len(parts) - 1
            if is_last:
                self.speaks()
            self.send_bytes(frame(opcode if i == 0 else CONTINUATION, part, last=is_last))

    def send_bytes(self, data: bytes) -> None:
        """Send raw bytes on the socket."""
        with self._write, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(data)

    def speaks(self) -> None:
        """Record that the worker sends a message; to be called before, since the answer may come at once."""
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
        return self._next_but({"started"}, deadline_s)

    def _next_but(self, skipped: Collection[str], deadline_s: float) -> dict[str, Any]:
        end = time.monotonic() + deadline_s
        while True:
            try:
                message = self._messages.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no message within {deadline_s:g} s{self.worker._told()}") from None
            assert message is not None, f"the connection ended{self.worker._told()}"
            if message.get("command") not in skipped:
                return message

    def expect(self, command: str, *, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the next message that is no sign of life, or is the one; it must have this command."""
        message = self._next_but({"started", *SIGNS_OF_LIFE} - {command}, deadline_s)
        assert message["command"] == command, f"{message!r:.2000} instead of {command}"
        return message

    def receive_result(self, *, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the next message that is no sign of life."""
        return self._next_but({"started", *SIGNS_OF_LIFE}, deadline_s)

    def answer(self, *, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the next message that is no sign of life; it must be a final answer."""
        message = self.receive_result(deadline_s=deadline_s)
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
        passed_over = {"started", *SIGNS_OF_LIFE}
        assert not [one for one in left if one is None or one.get("command") not in passed_over], left

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
        """Stop reading: what the client sends from here on stays in the kernel's buffers."""
        with self._reading:
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
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        try:
            while not self._ended.is_set():
                self._reads.wait()
                poll.poll()
                with self._reading:
                    if self._reads.is_set() and not self._read_once():
                        break
        except OSError:
            pass
        finally:
            self._dropped()
            self._ended.set()
            with self._write:
                self._socket.close()
            self._messages.put(None)

    def _read_once(self) -> bool:
        """Read what has come, and act on it; return whether more may come."""
        data = self._socket.recv(256 * 1024)
        self.received += len(data)
        if self.reset_after_bytes is not None and self.received >= self.reset_after_bytes:
            self.reset()
        if not data or self._ended.is_set():
            return False
        self._take(data)
        return True

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
