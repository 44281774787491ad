"""Serves results from memory to other algorithms of HKube, with ZeroMQ (the package pyzmq).

One thread has both sockets, so a request waits only while another one's reply is made, which copies nothing.
They are ROUTER sockets: unlike a REP socket, one that has got a request without an answer takes the next.
What clients send that is no request takes little memory, and costs them their connection.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from ...sandbox.codec.codec import Buffer
from ..io.connection_intake import CHECK_S, ConnectionIntake, event_of
from ..settings.storage_settings import StorageSettings
from .peer_messages import PING, PONG, error, tasks_of
from .value_cache import ValueCache

#: A request is a list of ids. It has two frames; many tiny ones take 32 times as much memory.
REQUEST_MAX = 8 * 1024 * 1024
#: Most tasks of a request: each takes two frames of the reply, also where its result is not here.
TASKS_MAX = 100_000
#: Requests of one client that wait, and replies that it does not read: HKube's clients send one at a time.
WAITING_MAX = 8


class PeerServer:
    """Serves the values of a cache."""

    def __init__(self, settings: StorageSettings, results: ValueCache, note: Callable[[str], None]) -> None:
        """Bind both ports; raises zmq.ZMQError. `note`: tells people what goes wrong."""
        self._note = note
        self._settings = settings
        self._results = results
        self._is_noted = False
        self.served_at = float("-inf")  #: when a result was last asked for, on the monotonic clock
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        #: What clients send, by the socket and by its monitor.
        self._intakes: dict[zmq.Socket[bytes], ConnectionIntake] = {}
        self._monitors: dict[zmq.Socket[bytes], ConnectionIntake] = {}
        self._check_at = 0.0
        self._data = self._bind(settings.peer_port)
        self._ping = self._bind(settings.peer_port + 1)

    @property
    def discovery(self) -> Mapping[str, Any]:
        """Where peers find this server, as links name it."""
        return {"host": self._settings.peer_host, "port": self._settings.peer_port}

    def begin(self) -> None:
        """Serve from now on, in a thread."""
        threading.Thread(target=self._serve, name="peers", daemon=True).start()

    def _bind(self, port: int) -> zmq.Socket[bytes]:
        sock = self._context.socket(zmq.ROUTER)
        sock.linger = 0
        sock.maxmsgsize = REQUEST_MAX
        sock.sndhwm = sock.rcvhwm = WAITING_MAX
        monitor = sock.get_monitor_socket(zmq.EVENT_ACCEPTED)
        self._intakes[sock] = self._monitors[monitor] = ConnectionIntake(REQUEST_MAX)
        for one in (sock, monitor):
            self._poller.register(one, zmq.POLLIN)
        host = self._settings.peer_host
        sock.ipv6 = ":" in host
        # Only at the address that peers get: no other client has a reason to connect.
        sock.bind(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
        return sock

    def _serve(self) -> None:
        while True:
            try:
                self._turn()
            except zmq.ZMQError as problem:
                self._note(f"a request of a peer failed: {problem}")
                time.sleep(0.1)  # an error that repeats must not use a whole core

    def _turn(self) -> None:
        """Wait for what comes, and serve it; look at the connections when it is time."""
        for sock, _ in self._poller.poll(int(CHECK_S * 1000) if any(self._intakes.values()) else None):
            if sock in self._monitors:
                _, fd = event_of(sock.recv_multipart()[0])
                self._monitors[sock].opened(fd)
            else:
                self._answer(sock)
        if time.monotonic() < self._check_at:
            return
        self._check_at = time.monotonic() + CHECK_S
        closed = sum(intake.check() for intake in self._intakes.values())
        if closed and not self._is_noted:
            self._is_noted = True  # peers may do it again and again
            self._note("a peer sent more than a request can have: its connection was closed")

    def _answer(self, sock: zmq.Socket[bytes]) -> None:
        first = sock.recv(copy=False)
        sender, frames = first.bytes, sock.recv_multipart()
        self._intakes[sock].took(first.get(zmq.SRCFD))
        # Of a REQ socket: an empty frame, then the request.
        if len(frames) != 2 or frames[0]:
            return
        if frames[1] == PING:
            reply: list[Buffer] = [PONG]
        elif sock is self._ping:
            return
        else:
            reply = self._reply(frames[1])
        sock.send_multipart([sender, b"", *reply], copy=False)

    def _reply(self, frame: bytes) -> list[Buffer]:
        encoding = self._settings.peer_encoding
        try:
            tasks = tasks_of(encoding, frame)
        except ValueError as problem:
            return error(encoding, "unknown", str(problem))
        if not tasks:
            return error(encoding, "unknown", "the request has an empty list of tasks")
        if len(tasks) > TASKS_MAX:
            return error(
                encoding, "unknown", f"the request has {len(tasks):,} tasks, more than {TASKS_MAX:,}"
            )
        self.served_at = time.monotonic()
        reply: list[Buffer] = []
        for task in tasks:
            value = self._results.get(task)
            if value is None:
                reply += error(encoding, "notAvailable", "taskId notAvailable")
            else:
                reply += [value.header(self._settings.encoding), value.data]
        return reply
