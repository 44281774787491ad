"""Asks other algorithms of HKube for results that they have in memory, with ZeroMQ (the package pyzmq).

A peer is asked only when it answers a ping on the next port. A peer that gives no answer in time, or one that
cannot be used, is left alone for a while: a task with many links must not wait for each of them.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from ..settings.storage_settings import StorageSettings
from .encoded_value import EncodedValue
from .errors import StorageError
from .peer_messages import PING, PONG, PeerError, request, values_of

#: A peer that failed is not asked again for this long.
REST_S = 10.0
#: Interval at which waiting for a peer is reported as progress: the wait has time limits of its own.
LOOK_MS = 250
MEGABYTE = 1_000_000


def _resident_bytes() -> int:
    """Return the memory that this process holds."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class PeerClient:
    """Asks peers; one request at a time."""

    def __init__(self, settings: StorageSettings, note: Callable[[str], None]) -> None:
        """`note`: tells people why results are read from the storage instead."""
        self._note = note
        self._settings = settings
        self._context = zmq.Context()
        self._resting: dict[str, float] = {}  #: peers that failed, and until when they are not asked

    def ask(
        self, discovery: Mapping[str, Any], tasks: list[str], progress: Callable[[], None]
    ) -> list[EncodedValue | None]:
        """Return the values of these tasks, in order; None for each that the peer cannot give."""
        host, port = discovery.get("host"), str(discovery.get("port"))  # HKube's Python wrapper sends a text
        peer = f"{host}:{port}"
        if self._resting.get(peer, 0.0) > time.monotonic():
            return [None] * len(tasks)
        try:
            if not isinstance(host, str) or not port.isdecimal():
                raise PeerError(f"the address of peer {peer} cannot be used")
            settings = self._settings
            ping = self._exchange(host, int(port) + 1, PING, settings.ping_timeout_s, progress)
            if ping != [PONG]:
                raise PeerError(f"peer {peer} answered a ping with {len(ping)} other frames")
            wanted = request(settings.encoding, tasks)
            frames = self._exchange(host, int(port), wanted, settings.peer_timeout_s, progress)
            return values_of(settings.encoding, frames, len(tasks), peer)
        except (StorageError, zmq.ZMQError, ValueError) as error:
            self._note(f"results of {peer} are read from the storage for {REST_S:g} s: {error}")
            self._resting[peer] = time.monotonic() + REST_S
            return [None] * len(tasks)

    def _exchange(
        self, host: str, port: int, frame: bytes, timeout_s: float, progress: Callable[[], None]
    ) -> list[bytes]:
        """Send a frame; return the frames of the reply. Raises PeerError without one in time."""
        sock: zmq.Socket[bytes] = self._context.socket(zmq.REQ)
        with sock:
            sock.linger = 0
            sock.ipv6 = ":" in host
            # No peer serves anything that its cache does not take: a longer frame ends the connection.
            sock.maxmsgsize = max(1, self._settings.result_cache_mb) * MEGABYTE
            sock.connect(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
            sock.send(frame)
            end = time.monotonic() + timeout_s
            # ZeroMQ takes any number of frames, and hands out none before the last one.
            most = _resident_bytes() + 2 * sock.maxmsgsize + 64 * MEGABYTE
            while (left_s := end - time.monotonic()) > 0:
                progress()
                if sock.poll(min(LOOK_MS, max(1, int(left_s * 1000)))):
                    return sock.recv_multipart()
                if _resident_bytes() > most:
                    raise PeerError(f"port {port} sends more than results can have")
        raise PeerError(f"no answer from port {port} within {timeout_s:g} s")
