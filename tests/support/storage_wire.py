"""A storage process, and requests to it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hkrunner.runner.settings.storage_settings import StorageSettings
from hkrunner.runner.storage.client import start_command
from hkrunner.runner.storage.requests import Datagram, receive, send
from hkrunner.sandbox.codec import codec
from hkrunner.sandbox.shared.message_format import PROTOCOL_VERSION
from hkrunner.sandbox.shared.storage_messages import (
    ANSWERS,
    FROM_STORAGE,
    CancelRequests,
    ConfigureStorage,
    FetchInput,
    ForTask,
    ForWorker,
    InputFetched,
    ResumeTask,
    StorageRequest,
)


class StorageWire:
    """The other end of a storage process, with msgpack everywhere."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self._socket = sock
        self._id = 0
        self.process = process

    def close(self) -> None:
        """End hkrunner's side."""
        self._socket.close()

    def post(self, what: type[StorageRequest], message: dict[str, Any]) -> None:
        """Send a request."""
        self._id += 1
        wire = b"".join(bytes(one) for one in codec.encode_pieces("msgpack", message))
        fd = os.memfd_create("request")
        try:
            os.write(fd, wire)
            send(self._socket, Datagram(what(b"", self._id, len(wire)), fd))
        finally:
            os.close(fd)

    def resume(self, message: ResumeTask) -> None:
        """Have it go on with a task of another process."""
        send(self._socket, Datagram(message))

    def cancel(self) -> None:
        """Have all requests dropped."""
        send(self._socket, Datagram(CancelRequests()))

    def ask(self, what: type[StorageRequest], message: dict[str, Any]) -> Datagram:
        """Send a request; return its answer."""
        self.post(what, message)
        while True:
            answer = receive(self._socket, FROM_STORAGE)
            assert answer is not None, "the process has ended"
            if isinstance(answer.message, ANSWERS):
                assert answer.message.id == self._id
                return answer

    def fetch(self, task: str = "t1") -> None:
        """Begin a task."""
        data = {"jobId": "job1", "taskId": task, "input": [], "storage": {}}
        answer = self.ask(FetchInput, {"command": "initialize", "data": data})
        assert isinstance(answer.message, InputFetched), answer


@contextlib.contextmanager
def storage_process(folder: Path) -> Iterator[StorageWire]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    settings = StorageSettings(folder=str(folder), serves_peers=False)
    told = ConfigureStorage(PROTOCOL_VERSION, settings._asdict(), *["msgpack"] * 3)
    with ours:
        with theirs:
            process = subprocess.Popen(start_command(theirs.fileno()), cwd="/", pass_fds=(theirs.fileno(),))
        try:
            ours.settimeout(20)
            unfinished = os.memfd_create("unfinished")
            send(ours, Datagram(told, unfinished))
            os.close(unfinished)
            yield StorageWire(ours, process)
        finally:
            process.kill()
            process.wait()


def content(answer: Datagram) -> Any:
    """Return what an answer carries; closes its memory."""
    message = answer.message
    assert isinstance(message, (InputFetched, ForWorker, ForTask)), message
    if answer.fd < 0:
        assert isinstance(message.wire, bytes), "it was received so"
        return codec.decode("msgpack", message.wire)
    with open(answer.fd, "rb") as file:
        file.seek(0)
        return codec.decode("msgpack", file.read(message.size))
