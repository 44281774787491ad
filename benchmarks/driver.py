"""Play HKube's worker as fast as possible: raw sockets, one thread, frames made beforehand.

Nothing here decodes a payload. A round trip with a client that only echoes the bytes takes 0.08 ms.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any

import bson
import msgspec

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
DEADLINE_S = 60.0
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10

#: The keys that a real worker sends with storage v1.
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


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a server's frame: not masked."""
    length = len(payload)
    if length < 126:
        return struct.pack("!BB", 0x80 | opcode, length) + payload
    if length < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 126, length) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, length) + payload


def json_frame(message: dict[str, Any]) -> bytes:
    return frame(TEXT, json.dumps(message, separators=(",", ":")).encode())


def wire(message: dict[str, Any], encoding: str = "json") -> bytes:
    """Return the message in a frame, as HKube encodes it."""
    if encoding == "json":
        return json_frame(message)
    if encoding == "bson":
        return frame(BINARY, bson.encode({"data": message}))
    return frame(BINARY, msgspec.msgpack.encode(message))


def start(encoding: str = "json") -> bytes:
    return wire({"command": "start", "data": {"spanId": {}}}, encoding)


def stop() -> bytes:
    return json_frame({"command": "stop", "data": {"forceStop": True}})


def exit(code: int = 0, encoding: str = "json") -> bytes:
    return wire({"command": "exit", "data": {"exitCode": code}}, encoding)


START = start()
EXIT = exit()


def initialize(input: list[Any], task: str = "b6thsibs", encoding: str = "json") -> bytes:
    return wire({"command": "initialize", "data": {**TASK, "taskId": task, "input": input}}, encoding)


@dataclass
class Times:
    """The times of a number of tasks, in seconds."""

    initialized: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    total: float = 0.0


class Driver:
    """The listening side."""

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.settimeout(DEADLINE_S)
        self.port: int = self._listener.getsockname()[1]
        self._clients: list[Connection] = []

    def accept(self) -> Connection:
        """Return the next client, after its handshake."""
        sock, _ = self._listener.accept()
        self._clients.append(Connection(sock))
        return self._clients[-1]

    def close(self) -> None:
        """Stop listening; existing connections stay open."""
        self._listener.close()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()
        for client in self._clients:
            client.close()


class Connection:
    """The connection of one client; a message is (first bytes of the payload, length of the payload)."""

    def __init__(self, sock: socket.socket) -> None:
        #: Number of bytes of a payload that are unmasked: enough for the command.
        self.head = 64
        #: Arrivals as (first bytes of the command, seconds); None: not recorded.
        self.seen: list[tuple[bytes, float]] | None = None
        #: Time of the answer to each ping, by the ping's payload.
        self.pongs: dict[bytes, float] = {}
        self._socket = sock
        sock.settimeout(DEADLINE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._bin = bytearray(1024 * 1024)
        self._greet()

    def _greet(self) -> None:
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        request, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        key = next(
            line.split(b":", 1)[1].strip()
            for line in request.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        )
        accepted = base64.b64encode(hashlib.sha1(key + GUID).digest())
        self._socket.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accepted + b"\r\n\r\n"
        )

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> tuple[bytes, int]:
        """Return the first bytes and the length of the next message."""
        head, size = b"", 0
        while True:
            opcode, last, part, length = self._frame()
            if opcode == PING:
                self.send(frame(PONG, part[:length]))
                continue
            if opcode == PONG:
                self.pongs[bytes(part)] = time.perf_counter()
                continue
            if opcode == CLOSE:
                code = int.from_bytes(part[:2], "big")
                raise ConnectionError(f"the client closed the connection: {code}")
            head, size = head or part, size + length
            if last:
                if self.seen is not None:
                    self.seen.append((head, time.perf_counter()))
                return head, size

    def ping(self, payload: bytes) -> None:
        self.send(frame(PING, payload))

    def deadline(self, seconds: float) -> None:
        """Let every later wait end after this time, with a TimeoutError."""
        self._socket.settimeout(seconds)

    def _frame(self) -> tuple[int, bool, bytes, int]:
        buffer = self._buffer
        while len(buffer) < 2:
            self._more()
        first, second = buffer[0], buffer[1]
        length, at = second & 0x7F, 2
        if length >= 126:
            at = 4 if length == 126 else 10
            while len(buffer) < at:
                self._more()
            length = int.from_bytes(buffer[2:at], "big")
        at += 4  # the mask
        needed = at + min(length, max(self.head, 125 if first & 8 else 0))
        while len(buffer) < needed:
            self._more()
        key = buffer[at - 4 : at]
        masked = buffer[at:needed]
        count = len(masked)
        pad = bytes(key) * (count // 4 + 1)
        number = int.from_bytes(masked, "little") ^ int.from_bytes(pad[:count], "little")
        head = number.to_bytes(count, "little")
        left = at + length - len(buffer)
        if left <= 0:
            del buffer[: at + length]
        else:
            buffer.clear()
            self._discard(left)
        return first & 0x0F, bool(first & 0x80), head, length

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the client has gone")
        self._buffer += data

    def _discard(self, count: int) -> None:
        view = memoryview(self._bin)
        while count:
            got = self._socket.recv_into(view[: min(count, len(view))])
            if not got:
                raise ConnectionError("the client has gone")
            count -= got

    def expect(self, command: bytes) -> bytes:
        """Return the first bytes of the message with this command; `started` and `alive` may come before."""
        while True:
            head, _ = self.receive()
            if command in head:
                return head
            if b"started" not in head and b"alive" not in head:
                raise RuntimeError(f"{head!r} instead of {command!r}")

    def run(self, first: bytes, count: int, encoding: str = "json") -> Times:
        """Run this task the given number of times."""
        times = Times()
        second = start(encoding)
        clock = time.perf_counter
        began = clock()
        for _ in range(count):
            sent = clock()
            self.send(first)
            self.expect(b"initialized")
            ready = clock()
            times.initialized.append(ready - sent)
            ready = clock()
            self.send(second)
            self.expect(b"done")
            times.done.append(clock() - ready)
        times.total = clock() - began
        return times

    def close(self) -> None:
        self._socket.close()
