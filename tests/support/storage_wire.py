"""A storage process, and requests to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hkrunner.runner.settings.storage_settings import StorageSettings
from hkrunner.runner.storage.client import start_command
from hkrunner.runner.storage.requests import Message, receive, send
from hkrunner.sandbox.codec import codec


class StorageWire:
    """The other end of a storage process, with msgpack everywhere."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._id = 0

    def post(self, what: str, message: dict[str, Any]) -> None:
        """Send a request."""
        self._id += 1
        wire = b"".join(bytes(one) for one in codec.encode_pieces("msgpack", message))
        fd = os.memfd_create("request")
        try:
            os.write(fd, wire)
            send(self._socket, Message({"do": what, "id": self._id, "size": len(wire)}, b"", fd))
        finally:
            os.close(fd)

    def ask(self, what: str, message: dict[str, Any]) -> Message:
        """Send a request; return its answer."""
        self.post(what, message)
        while True:
            answer = receive(self._socket)
            assert answer is not None, "the process has ended"
            if answer.fields["id"]:
                assert answer.fields["id"] == self._id
                return answer

    def fetch(self, task: str = "t1") -> None:
        """Begin a task."""
        data = {"jobId": "job1", "taskId": task, "input": [], "storage": {}}
        assert "failed" not in self.ask("fetch", {"command": "initialize", "data": data}).fields


@contextlib.contextmanager
def storage_process(folder: Path) -> Iterator[StorageWire]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    settings = StorageSettings(folder=str(folder), serves_peers=False)
    told = {"settings": settings._asdict(), "encodings": ["msgpack"] * 3}
    with ours:
        with theirs:
            process = subprocess.Popen(start_command(theirs.fileno()), cwd="/", pass_fds=(theirs.fileno(),))
        try:
            ours.settimeout(20)
            send(ours, Message({"do": "configure", "id": 0}, json.dumps(told).encode()))
            yield StorageWire(ours)
        finally:
            process.kill()
            process.wait()


def content(answer: Message) -> Any:
    """Return what an answer carries; closes its memory."""
    if answer.fd < 0:
        return codec.decode("msgpack", answer.data)
    with open(answer.fd, "rb") as file:
        file.seek(0)
        return codec.decode("msgpack", file.read(answer.size))
