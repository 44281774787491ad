"""A stand-in for HKube's worker: a WebSocket server that sends tasks to the wrapper that connects.

This file has the port, the choice of the client, and the queue of tasks; connection.py has the bytes of a
connection, session.py its messages.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...sandbox.codec import codec
from ..errors import HkrunnerError
from ..io.loop import Loop
from ..storage.errors import StorageError
from .catalog import Catalog
from .connection import ClientConnection, ConnectionListener
from .session import Session, SessionListener
from .task import Answer, LocalTask

if TYPE_CHECKING:
    from ..settings.storage_settings import StorageSettings
    from .stored_values import StoredValues

__all__ = ["Answer", "LocalTask", "LocalWorker"]

#: Connections in their handshake. With one more, the oldest is closed: silent ones must not block others.
HANDSHAKES_MAX = 16
#: Without a network, or in a service that may not use it (systemd's RestrictAddressFamilies).
_NO_NETWORK = (errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EPERM, errno.ENOSYS)
#: Without the network's loopback interface.
_NO_ROUTE = (errno.ENETUNREACH, errno.EADDRNOTAVAIL)


class LocalWorker:
    """Listens on one port and serves one client at a time."""

    def __init__(
        self,
        loop: Loop,
        *,
        on_answer: Callable[[Answer], None],
        on_problem: Callable[[str], None],
        on_client: Callable[[bool], None] = lambda there: None,
        on_progress: Callable[[LocalTask, Any], None] = lambda task, data: None,
        on_logs: Callable[[list[str]], None] = lambda lines: None,
        catalog: Catalog | None = None,
        storage: StorageSettings | None = None,
    ) -> None:
        """catalog: what the code API can start and find; None: nothing. storage: for clients with storage v3;
        None: there are none."""
        self._storage = storage
        self._loop = loop
        self._on_answer = on_answer
        self._on_problem = on_problem
        self._on_client = on_client
        self._catalog = catalog if catalog is not None else Catalog()
        self._session_listener = SessionListener(self._answered, on_problem, on_progress, on_logs)
        self._queue: deque[LocalTask] = deque()
        self._listener: socket.socket | None = None
        self._handshakes: list[ClientConnection] = []  #: connections whose handshake is not done
        self._client: ClientConnection | None = None
        self._session: Session | None = None

    def listen(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; return the port. Raises OSError when it is in use, HkrunnerError when unreachable."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family)
        except OSError as error:
            if error.errno not in _NO_NETWORK:
                raise
            raise _unreachable(host, error) from None
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(self._listener.getsockname())  # sends nothing
        except OSError as error:  # or only such sockets are forbidden
            if error.errno in _NO_ROUTE:
                raise _unreachable(host, error) from None
        self._listener.setblocking(False)
        self._loop.on_readable(self._listener, self._accept)
        found: int = self._listener.getsockname()[1]
        return found

    def submit(self, task: LocalTask) -> None:
        """Send the task to the client as soon as it is free."""
        self._queue.append(task)
        self._next()

    def stop(self, *, force: bool = True) -> bool:
        """Ask the client to stop its task; return False while there is none that can be stopped."""
        return self._session is not None and self._session.stop(force=force)

    def spans(self) -> list[dict[str, Any]]:
        """End the open spans of the current task; return all of them."""
        return self._session.spans() if self._session is not None else []

    def exit(self, code: int = 0) -> None:
        """Ask the client to exit."""
        if self._session is not None:
            self._session.exit(code)

    def close(self) -> None:
        """Close the port and all connections."""
        for connection in self._handshakes:
            connection.close()
        self._handshakes.clear()
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._listener is not None:
            self._loop.on_readable(self._listener, None)
            self._listener.close()
            self._listener = None

    @property
    def connected(self) -> bool:
        """Whether a client is connected, its handshake done."""
        return self._client is not None

    @property
    def working(self) -> LocalTask | None:
        """The task of the client, or None."""
        return self._session.task if self._session is not None else None

    def withdraw(self) -> list[LocalTask]:
        """Empty the queue; return the tasks that were in it."""
        left = list(self._queue)
        self._queue.clear()
        return left

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise  # the connection waits, and this would be called for it again and again
            return
        with contextlib.suppress(OSError):
            if self._client is not None:
                # HKube's worker would accept it and then lose both connections.
                self._refuse()
                sock.close()
                return
            if len(self._handshakes) == HANDSHAKES_MAX:
                self._handshakes.pop(0).close()
            listener = ConnectionListener(
                self._client_ready, self._client_sent, self._client_gone, self._on_problem
            )
            storages = ("v1",) if self._storage is None else ("v1", "v3")
            self._handshakes.append(ClientConnection(self._loop, sock, listener, storages))

    def _refuse(self) -> None:
        self._on_problem("a second client connected while the first is served; it was refused")

    def _client_ready(self, client: ClientConnection) -> None:
        self._handshakes.remove(client)
        if self._client is not None:
            self._refuse()
            client.close()
            return
        self._client = client
        values = self._values() if client.storage == "v3" else None
        self._session = Session(self._loop, self._client, self._catalog, self._session_listener, values)
        self._on_client(True)
        self._next()

    def _values(self) -> StoredValues:
        from .stored_values import StoredValues  # late: hardly any client has storage v3

        assert self._storage is not None, "else the client was refused"
        return StoredValues(self._storage)

    def _client_sent(self, data: bytes) -> None:
        if self._session is not None:
            self._session.hear(data)

    def _client_gone(self, client: ClientConnection, reason: str) -> None:
        """Queue the task of a client that has disconnected for the next client, from its start."""
        if client is not self._client:
            self._handshakes.remove(client)  # refused, or never finished its handshake
            return
        session, self._session, self._client = self._session, None, None
        assert session is not None, "a client that is served has one"
        task = session.close()
        if task is not None:
            self._on_problem(f"the client disconnected in the middle of task {task.task}: {reason}")
            self._queue.appendleft(task)
        self._on_client(False)

    def _answered(self, answer: Answer) -> None:
        self._on_answer(answer)
        self._next()

    def _next(self) -> None:
        if self._session is None or self._session.task is not None or not self._queue:
            return
        task = self._queue.popleft()
        try:
            self._session.begin(task)
        except (codec.ResultInvalid, StorageError) as error:
            # The client's encoding cannot carry the input, or it cannot be stored.
            failed = {"command": "errorMessage", "error": {"code": "RESULT_INVALID", "message": str(error)}}
            self._loop.after(0, lambda: self._answered(Answer(task, "errorMessage", failed)))


def _unreachable(host: str, error: OSError) -> HkrunnerError:
    return HkrunnerError(
        f"nothing can connect to hkrunner's own worker at {host}: {error.strerror}; it needs the network's"
        " loopback interface (ip link set lo up), and sockets of its kind"
    )
