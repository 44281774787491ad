"""A stand-in for HKube's worker: a WebSocket server that hands tasks to whatever wrapper connects.

What is said on a connection stands in session.py, its bytes in wire.py; here: the port, who is served, and
the tasks that wait.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from ...sandbox.codec import codec
from ..io.loop import Loop
from .code_api import Offer
from .connection import Connection, Listener
from .session import Ears, Session
from .task import Answer, LocalTask

__all__ = ["Answer", "LocalTask", "LocalWorker"]

#: So many may have connected without having said what they want: one that never does keeps nobody out.
KNOCKING_MAX = 16


class LocalWorker:
    """Listens on one port, serves one client at a time."""

    def __init__(
        self,
        loop: Loop,
        *,
        on_answer: Callable[[Answer], None],
        on_problem: Callable[[str], None],
        on_client: Callable[[bool], None] = lambda there: None,
        on_progress: Callable[[LocalTask, Any], None] = lambda task, data: None,
        on_logs: Callable[[list[str]], None] = lambda lines: None,
        offer: Offer | None = None,
    ) -> None:
        """`offer`: what the code API has; nothing without one."""
        self._loop = loop
        self._on_answer = on_answer
        self._on_problem = on_problem
        self._on_client = on_client
        self._offer = offer if offer is not None else Offer()
        self._ears = Ears(self._answered, on_problem, on_progress, on_logs)
        self._queue: deque[LocalTask] = deque()
        self._listener: socket.socket | None = None
        self._knocking: list[Connection] = []  #: whose handshake is not done
        self._client: Connection | None = None
        self._session: Session | None = None

    def listen(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; return the port. Raises OSError when it is taken."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family)
        self._listener.setblocking(False)
        self._loop.on_readable(self._listener, self._accept)
        found: int = self._listener.getsockname()[1]
        return found

    def submit(self, task: LocalTask) -> None:
        """Hand the task out when the client is free."""
        self._queue.append(task)
        self._next()

    def stop(self, *, force: bool = True) -> bool:
        """Ask the client to stop the task it works on; False when there is nothing to stop yet."""
        return self._session is not None and self._session.stop(force=force)

    def spans(self) -> list[dict[str, Any]]:
        """End the spans of the task that is worked on, and return them."""
        return self._session.spans() if self._session is not None else []

    def exit(self, code: int = 0) -> None:
        """Ask the client to end."""
        if self._session is not None:
            self._session.exit(code)

    def close(self) -> None:
        """Close everything."""
        for knocking in self._knocking:
            knocking.close()
        self._knocking.clear()
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
        """A client is there, its handshake done."""
        return self._client is not None

    @property
    def working(self) -> LocalTask | None:
        """The task the client has."""
        return self._session.task if self._session is not None else None

    def withdraw(self) -> list[LocalTask]:
        """Return the tasks that wait; they are not handed out any more."""
        left = list(self._queue)
        self._queue.clear()
        return left

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            if self._client is not None:
                # The real worker would take it and then lose both (PROTOCOL 1.9).
                self._refuse()
                sock.close()
                return
            if len(self._knocking) == KNOCKING_MAX:
                self._knocking.pop(0).close()
            listener = Listener(self._client_ready, self._client_said, self._client_gone, self._on_problem)
            self._knocking.append(Connection(self._loop, sock, listener))

    def _refuse(self) -> None:
        self._on_problem("a second client connected while the first is served; it was refused")

    def _client_ready(self, client: Connection) -> None:
        self._knocking.remove(client)
        if self._client is not None:
            self._refuse()
            client.close()
            return
        self._client = client
        self._session = Session(self._loop, self._client, self._offer, self._ears)
        self._on_client(True)
        self._next()

    def _client_said(self, data: bytes) -> None:
        if self._session is not None:
            self._session.hear(data)

    def _client_gone(self, client: Connection, reason: str) -> None:
        """The client has disconnected; its task, if any, is handed to the next one from the start."""
        if client is not self._client:
            self._knocking.remove(client)  # it was refused, or has never said what it wanted
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
        except codec.ResultInvalid as error:
            # A client chose an encoding that cannot carry it.
            failed = {"command": "errorMessage", "error": {"code": "RESULT_INVALID", "message": str(error)}}
            self._loop.after(0, lambda: self._answered(Answer(task, "errorMessage", failed)))
