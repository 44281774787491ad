"""A program of --command: speaks HKube's protocol with the standard library alone, and does what its input says."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import sys
import time
from typing import Any


class Worker:
    """The connection to the worker."""

    def __init__(self, query: str = "") -> None:
        host, port = os.environ["WORKER_SOCKET_HOST"], int(os.environ["WORKER_SOCKET_PORT"])
        self._socket = socket.create_connection((host, port))
        key = base64.b64encode(os.urandom(16)).decode()
        request = f"GET /{query} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self._socket.sendall(f"{request}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        self._input = self._socket.makefile("rb")
        self.answer = self._input.readline().decode().strip()
        while self._input.readline().strip():
            pass
        if " 101 " not in self.answer:
            self.answer += " " + self._input.read().decode().strip()

    def raw(self, data: bytes, opcode: int = 1) -> None:
        """Send these bytes as one message."""
        length = len(data)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
        elif length < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 0xFE, length)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0xFF, length)
        key = os.urandom(4)
        pad = int.from_bytes(key * (length // 4 + 1), "big") >> 8 * (4 - length % 4)
        masked = int.from_bytes(data, "big") ^ pad
        self._socket.sendall(head + key + masked.to_bytes(length, "big"))

    def announce(self, length: int) -> None:
        """Send the head of a message of this size, and nothing of it."""
        self._socket.sendall(struct.pack("!BBQ", 0x81, 0xFF, length) + b"mask")

    def say(self, command: str, **more: Any) -> None:
        self.raw(json.dumps({"command": command, **more}).encode())

    def hear(self) -> dict[str, Any]:
        """Return the next message; the end of the connection ends the program."""
        while True:
            head = self._input.read(2)
            if len(head) < 2:
                sys.exit(0)
            length = head[1]
            if length == 126:
                length = int.from_bytes(self._input.read(2), "big")
            elif length == 127:
                length = int.from_bytes(self._input.read(8), "big")
            data = self._input.read(length)
            if head[0] & 0x0F == 8:
                sys.exit(0)
            if head[0] & 0x0F < 3:
                found: dict[str, Any] = json.loads(data)
                return found

    def wait_for(self, *commands: str) -> dict[str, Any]:
        while (message := self.hear())["command"] not in commands:
            pass
        return message

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)


def start(worker: Worker, what: str, values: list[Any]) -> None:
    """Do what the task says, up to its answer."""
    if what == "give":
        worker.say("done", data=values[0])
    elif what == "give and close":
        worker.say("done", data="closed")
        worker.raw(struct.pack("!H", 1000), opcode=8)  # hear() ends the program at the answer to that
    elif what == "give and shut down":
        worker.say("done", data="shut down")
        worker._socket.shutdown(socket.SHUT_WR)
        time.sleep(60)
    elif what == "raise":
        worker.say("errorMessage", error={"code": "Failed", "message": values[0], "details": "some lines"})
    elif what == "exit":
        sys.exit(values[0])
    elif what == "signal":
        os.kill(os.getpid(), values[0])
    elif what == "sleep":
        print("sleeps", flush=True)
        while True:
            time.sleep(60)
    elif what == "stop":
        print("waits", flush=True)
        worker.wait_for("stop")
        worker.say("stopped")
    elif what == "grow":
        hoard = []
        while True:
            hoard.append(b"x" * 8_000_000)
    elif what == "large":
        worker.raw(b'{"command": "done", "data": "' + b"x" * values[0] + b'"}')
    elif what == "size":
        worker.say("done", data=len(values[0]))
    elif what == "environment":
        worker.say("done", data={name: os.environ.get(name) for name in values})
    elif what == "metrics":
        with open(os.path.join(os.environ["ALGO_METRICS_DIR"], "curve.txt"), "w") as file:
            file.write(values[0])
        print("printed", flush=True)
        worker.say("done", data=values[0])
    elif what == "call":
        worker.say("progress", data={"progress": 50, "details": "half"})
        worker.say("startStoredSubPipeline", data={"subPipelineId": "1", "subPipeline": {"name": "p"}})
        answer = worker.wait_for("subPipelineDone", "subPipelineError")["data"]
        worker.say("done", data=answer.get("response", answer.get("error")))
    elif what == "too large":
        worker.announce(100_000_001)
        time.sleep(60)
    elif what == "close":
        worker.close()
        time.sleep(60)
    elif what == "unmasked":
        worker._socket.sendall(b"\x81\x02{}")
        time.sleep(60)
    elif what == "unasked":
        worker.say("stopped")
    elif what == "finish":
        print("finishes", flush=True)
        worker.wait_for("stop")
        worker.say("done", data="too late")
        worker.say("stopped")
    elif what == "ignore":
        print("ignores", flush=True)
        worker.wait_for("exit")
    elif what == "second":
        worker.say("done", data=Worker().answer)
    elif what == "pretend":
        worker.say("done", data=Worker("?encoding=bson&storage=v3").answer)
    elif what == "nan":
        worker.raw(b'{"command":"done","data":NaN}')
    elif what == "deep":
        worker.raw(b'{"command":"done","data":' + b"[" * values[0] + b"]" * values[0] + b"}")
    elif what == "error of size":
        worker.say("errorMessage", error={"message": "x" * values[0]})
    elif what == "babble":
        worker.say("initialized")
        worker.say("alive")
        worker.say("dataSourceRequest")
        worker.say("storing", data={})
        worker.say("error")
        worker.raw(b"null")
        worker.raw(b'{"command":"progress","data":{"progress":NaN}}')
        worker.say("progress", data={"progress": "much"})
        worker.raw(b"\xff\xfe")
        worker.say("done", data="said enough")
        worker.say("done", data="once more")
        worker.say("alive")
        worker.say("startSpan", data={"name": "late"})
        print("has babbled", *values, flush=True)


def main() -> None:
    worker = Worker()
    for command in sys.argv[1:]:
        worker.say(command, data="early")
    if sys.argv[1:]:
        print("spoke too early", flush=True)
    while True:
        task = worker.wait_for("initialize", "exit")
        if task["command"] == "exit":
            print("exits", flush=True)
            sys.exit(0)
        what, *values = task["data"]["input"]
        if what == "fail init":
            worker.say("errorMessage", error={"message": "no init"})
            continue
        if what == "die early":
            with open(values[0], "a") as file:
                file.write("died\n")
            os._exit(7)
        worker.say("initialized")
        if worker.wait_for("start", "stop")["command"] == "start":
            worker.say("started")
            start(worker, what, values)


if __name__ == "__main__":
    main()
