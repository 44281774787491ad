"""What the process does that serves the connections of `--net HOST:PORT`, when one of them goes wrong."""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import resource
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hkrunner.sandbox.isolation import forwarder
from hkrunner.sandbox.isolation.forwarder import Forwarder
from hkrunner.sandbox.isolation.root_folder import _write_hosts
from hkrunner.sandbox.parent.pinhole_forwarder import PinholeForwarder
from hkrunner.sandbox.shared.net_target import NetTarget, net_target
from support.waiting import wait_until

DEADLINE_S = 20.0
RESET_WHEN_CLOSED = struct.pack("ii", 1, 0)


class Served:
    """A forwarder with one target, which this process is, too."""

    def __init__(self, stderr: Path) -> None:
        """It serves, and writes to this file."""
        self._stderr = stderr
        self.target = socket.create_server(("127.0.0.1", 0))
        self._inside = socket.create_server(("127.0.0.1", 0))
        with stderr_to(stderr):
            self.handle = PinholeForwarder([f"127.0.0.1:{self.target.getsockname()[1]}"])
        socket.send_fds(self.handle.channel, [b"\0"], [self._inside.fileno()])
        self.process = psutil.Process(self.handle._process.pid)
        self.check(self.connect())
        wait_until(lambda: self.process.num_threads() == 2, what="the end of the first connection")
        #: How many descriptors it has when it has no connection.
        self.idle_fds = self.process.num_fds()

    def has_said(self, what: str) -> bool:
        """Whether such a line is on its stderr."""
        return f": {what}\n" in self._stderr.read_text()

    def connect(self) -> socket.socket:
        """Return the algorithm's end of a new connection."""
        return socket.create_connection(self._inside.getsockname(), timeout=DEADLINE_S)

    def connection(self) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a new connection: the algorithm's and the target's."""
        ours = self.connect()
        self.target.settimeout(DEADLINE_S)
        theirs, _ = self.target.accept()
        theirs.settimeout(DEADLINE_S)
        return ours, theirs

    def check(self, ours: socket.socket) -> None:
        """The connection leads to the target; close it. One that was closed before may come first."""
        self.target.settimeout(DEADLINE_S)
        found = b""
        with ours:
            ours.sendall(b"text")
            while not found:
                theirs, _ = self.target.accept()
                with theirs, contextlib.suppress(ConnectionResetError):
                    theirs.settimeout(DEADLINE_S)
                    found = theirs.recv(4)
        assert found == b"text"

    def check_refused(self) -> None:
        """A connection is closed, or waits; nothing comes."""
        with contextlib.suppress(ConnectionResetError, TimeoutError), self.connect() as one:
            one.settimeout(0.5)
            assert one.recv(1) == b""

    def limit(self, kind: int, soft: int) -> None:
        """Change a limit of the process."""
        self.process.rlimit(kind, (soft, resource.prlimit(self.process.pid, kind)[1]))

    def close(self) -> None:
        """End it."""
        self.handle.end()
        self._inside.close()
        self.target.close()


@contextlib.contextmanager
def stderr_to(path: Path) -> Iterator[None]:
    """A process that is started meanwhile writes its stderr to the file."""
    own = os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(own, 2)
        os.close(own)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    one = Served(tmp_path / "stderr")
    yield one
    one.close()


def test_connections_that_the_code_gave_up_end_though_their_target_never_closes(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        ends = [[stack.enter_context(one) for one in served.connection()] for _ in range(4)]
        (reset, of_reset), (closed, of_closed), (half, of_half), (full, of_full) = ends
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_WHEN_CLOSED)
        reset.close()
        # So the kernel forgets it as soon as inside of a sandbox, where it is pinholes.py that says so.
        closed.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)
        closed.close()
        half.shutdown(socket.SHUT_WR)
        full.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while full.send(bytes(1 << 20)):
                pass
        assert [of_closed.recv(1), of_half.recv(1)] == [b"", b""]
        with pytest.raises(ConnectionResetError):
            of_reset.recv(1)
        wait_for_reset(of_closed)
        # The other half of a connection, and one whose target does not read, are not affected.
        of_half.sendall(b"answer")
        assert half.recv(6) == b"answer"
        assert of_full.recv(1) == b"\0"
    wait_until(lambda: served.process.num_threads() == 2, what="the end of all connections")
    assert served.process.num_fds() <= served.idle_fds + 8, "pipes that are kept for later"


def test_a_lack_of_descriptors_ends_no_connection_but_those_that_meet_it(served: Served) -> None:
    served.limit(resource.RLIMIT_NOFILE, 3)  # the lowest number that is not in use would be above it
    served.check_refused()  # by a kernel that had a descriptor ready for it; another lets it wait, too
    waiting = served.connect()
    wait_until(lambda: served.has_said("a connection waits: Too many open files"), what="the note")
    served.limit(resource.RLIMIT_NOFILE, 1000)
    served.check(waiting)


class Enough(Exception):
    """Ends the loop that accepts."""


class ListeningStandIn:
    """Accepts what it was given, and raises the errors among that."""

    def __init__(self, *results: socket.socket | Exception) -> None:
        self._results = [*results, Enough()]

    def accept(self) -> tuple[socket.socket, None]:
        """Return the next connection."""
        result = self._results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result, None


def test_no_refused_descriptor_or_thread_ends_the_loop_that_accepts(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    served: list[socket.socket] = []

    def start(_: object, args: tuple[socket.socket, NetTarget, object]) -> None:
        if args[0] is refused:
            raise RuntimeError("can't start new thread")
        served.append(args[0])

    monkeypatch.setattr(_thread, "start_new_thread", start)
    monkeypatch.setattr(forwarder, "MOST_CONNECTIONS", 1)
    refused, its_end = socket.socketpair()
    good, other_end = socket.socketpair()
    target = NetTarget("db", 80)
    with refused, its_end, good, other_end:
        listening: Any = ListeningStandIn(OSError(errno.EMFILE, "Too many open files"), refused, good)
        with pytest.raises(Enough):
            Forwarder(its_end, [target])._accept(listening, target)
        assert served == [good] and its_end.recv(1) == b""
    assert capfd.readouterr().err.splitlines() == [
        "hkrunner: --net db:80: a connection waits: Too many open files",
        "hkrunner: --net db:80: can't start new thread",
    ]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the socket is closed by being forgotten
def test_a_thread_that_finds_no_memory_for_its_first_line_takes_no_connection_from_those_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_thread, "start_new_thread", lambda _, args: None)  # args are dropped with the thread
    monkeypatch.setattr(forwarder, "MOST_CONNECTIONS", 1)
    inner, its_end = socket.socketpair()
    target = NetTarget("db", 80)
    with its_end:
        one = Forwarder(its_end, [target])
        listening: Any = ListeningStandIn(inner)
        del inner
        with pytest.raises(Enough):
            one._accept(listening, target)
        assert its_end.recv(1) == b"", "closed"
        assert one._free.acquire(blocking=False)


def wait_for_reset(one: socket.socket) -> None:
    """The other side of the connection is gone: it was told that nobody reads any more."""
    poll = select.poll()
    poll.register(one, 0)
    assert poll.poll(DEADLINE_S * 1000)


@pytest.mark.parametrize("text", ["[::ffff:127.0.0.1]:80", "[::ffff:7f00:1]:80"])
def test_an_address_of_ipv4_within_ipv6_is_that_address(text: str) -> None:
    assert net_target(text) == NetTarget("127.0.0.1", 80)


@pytest.mark.parametrize("host", ["a" * 64, ".".join(["a" * 60] * 5)])
def test_a_name_that_is_too_long_to_be_looked_up_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="is neither a name nor an address"):
        net_target(f"{host}:80")


@pytest.mark.parametrize("port", ["0", "65536", "-1", "²", "", "9" * 5000], ids=lambda port: port[:9])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(ValueError, match="a port is a number from 1 to 65535"):
        net_target(f"example.org:{port}")


def test_the_hosts_file_names_a_machine_whatever_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsdecode("büro".encode() + b"\xff")
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename=name))
    _write_hosts(str(tmp_path), [])
    assert f"localhost {name}\n" in os.fsdecode((tmp_path / "etc" / "hosts").read_bytes())
