"""What code with --sandbox strict reaches with --net HOST:PORT: that, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.local import ALGORITHMS
from support.ports import has_ipv6
from support.processes import runs
from support.programs import HKRUNNER, Program, run
from support.sandboxes import BEST, POSSIBLE, check_nothing_is_left, python_for_all
from support.users import bounded_command, give_to_bounded
from support.waiting import wait_until
from support.weaker_machines import machine_for

#: A name that only the hosts file of the test knows.
NAME = "data.example"


class EchoServer:
    """Sends back what comes, on a port of this address; counts the connections that are open."""

    def __init__(self, address: str) -> None:
        """Listen, and serve in threads."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, 0), family=family, backlog=64)
        self.port: int = self._socket.getsockname()[1]
        self.open: set[socket.socket] = set()
        self.seen = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                one, _ = self._socket.accept()
                self.open.add(one)
                self.seen += 1
                threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        with one, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while data := one.recv(1 << 18):
                one.sendall(data)
        self.open.discard(one)

    def close(self) -> None:
        """Accept no more."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def server() -> Iterator[EchoServer]:
    one = EchoServer("127.0.0.1")
    yield one
    one.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(ALGORITHMS / "strict_pinholes.py", tmp_path)
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost {NAME}\n")
    return tmp_path


def command(level: str, *options: str | Path) -> list[str | Path]:
    return [HKRUNNER, "strict_pinholes.py", "--sandbox", "strict", "--sandbox-level", level, *options]


def holds_networks(level: str) -> bool:
    """Whether this machine can hold the level, and that has a network of its own."""
    return level in POSSIBLE and level != "landlock"


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port at which nobody listens, and nobody else can."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield one.getsockname()[1]


@pytest.mark.parametrize("level", ["full", "ns"])
def test_the_code_reaches_exactly_what_was_opened(
    folder: Path, server: EchoServer, unused_port: int, level: str
) -> None:
    other, nobody = EchoServer("127.0.0.1"), unused_port
    server6 = EchoServer("::1") if has_ipv6() else None
    given = {
        "name": NAME,
        "address": "127.0.0.1",
        "address6": "::1",
        "port": server.port,
        "port6": server6.port if server6 is not None else None,
        "other": other.port,
        "nobody": nobody,
    }
    # The address of the documentation's network is nobody's: inside it must be there all the same.
    opened = [f"{NAME}:{server.port}", f"127.0.0.1:{server.port}", f"{NAME}:{nobody}", "198.51.100.7:9"]
    opened.append(f"localhost:{server.port}")  # inside the same as 127.0.0.1
    if server6 is not None:
        opened.append(f"[::1]:{server6.port}")
    options = [word for one in opened for word in ("--net", one)]
    if level == "full":
        options += ["--read", "/etc"]  # with the machine's hosts file, which must not be the one inside
    whole = command(level, *options, "--json", "-i", json.dumps(["all", given]))
    ended = run(machine_for(level, whole, hosts=folder / "hosts"), cwd=folder, env={"TMPDIR": "/tmp"})
    if not holds_networks(level):
        assert (ended.status, server.seen) == (2, 0), ended
        return
    (task,) = map(json.loads, ended.stdout.splitlines())
    found = task["output"]
    assert task["protection"]["sandbox"] == level, ended
    assert found.pop("the address of the name").startswith("127.0.88.")
    fin_timeout = found.pop("seconds until the kernel forgets a closed connection")
    assert fin_timeout == "2" or not os.access("/proc/sys/net/ipv4/tcp_fin_timeout", os.W_OK)
    held = {name for name in found if name.startswith(("another", "by UDP"))}
    assert {found[name] for name in held} <= {"ECONNREFUSED", "ENETUNREACH"}, found
    assert all(found[name] is True for name in set(found) - held), found
    wait_until(lambda: server.seen >= 23, what="the last connection is accepted")
    assert (other.seen, server.seen) == (0, 23)
    assert f"network only {', '.join(opened)}" in ended.stderr
    assert ended.stderr.count(f"hkrunner: --net {NAME}:{nobody}: Connection refused") == 1
    wait_until(lambda: not server.open, what="the end of all connections")
    other.close()
    if server6 is not None:
        server6.close()
    check_nothing_is_left()


def test_a_level_that_knows_no_hosts_starts_nothing(folder: Path, server: EchoServer) -> None:
    whole = command("landlock", "--net", f"127.0.0.1:{server.port}", "-i", '["connect", null]')
    strongest = machine_for("landlock", whole) if BEST != "landlock" else whole
    ended = run(strongest, cwd=folder)
    assert (ended.status, server.seen) == (2, 0), ended
    assert "landlock: --net HOST:PORT: Landlock knows ports, but no hosts" in ended.stderr
    assert "No weaker level would start either" in ended.stderr


def test_a_refused_target_is_told_with_the_option_that_opens_it(folder: Path, server: EchoServer) -> None:
    options = ["--net", f"localhost:{server.port}", "--json"]
    inputs = [["connect", ["192.0.2.9", 80]], ["connect", ["127.0.0.1", 9]], ["connect", ["no.example", 80]]]
    words = [word for one in inputs for word in ("-i", json.dumps(one))]
    ended = run(command(BEST, *options, *words), cwd=folder)
    if not holds_networks(BEST):
        assert ended.status == 2, ended
        return
    messages = [json.loads(line)["error"]["message"] for line in ended.stdout.splitlines()]
    only = f"; --sandbox strict reaches only localhost:{server.port}"
    assert [only in one and "--net HOST:PORT opens one address" in one for one in messages] == [True] * 3
    assert "so that this name is not found" in messages[2]


def test_another_user_reaches_what_was_opened(server: EchoServer) -> None:
    with tempfile.TemporaryDirectory(prefix="pinholes-", dir="/tmp") as made:  # which that user may enter
        place = Path(made)
        place.chmod(0o755)
        give_to_bounded(place)
        shutil.copy(ALGORITHMS / "strict_pinholes.py", place)
        words: list[str | Path] = ["-i", json.dumps(["connect", ["127.0.0.1", server.port]])]
        words += ["--net", f"127.0.0.1:{server.port}", "--python", python_for_all()]
        ended = run(bounded_command(command(BEST, *words), tasks=300), cwd=place, env={"TMPDIR": "/tmp"})
    wanted = (0, '"text"') if holds_networks(BEST) else (2, "")
    assert (ended.status, ended.stdout.strip()) == wanted, ended


@pytest.mark.parametrize("ended_by", ["hkrunner", "a limit"])
def test_connections_and_the_process_that_serves_them_end_with_the_code(
    folder: Path, server: EchoServer, ended_by: str
) -> None:
    options = ["--net", f"localhost:{server.port}", "-i", json.dumps(["hold", ["localhost", server.port]])]
    if ended_by == "a limit":
        options += ["--cpu-time", "2"]
    program = Program(command(BEST, *options), cwd=folder, env={"TMPDIR": "/tmp"})
    try:
        if not holds_networks(BEST):
            assert program.wait() == 2
            return
        wait_until(lambda: len(server.open) == 3, what="three connections")
        below = psutil.Process(program.pid).children(recursive=True)
        assert [one for one in below if "forwarder" in one.cmdline()]
        if ended_by == "hkrunner":
            program.send_signal(signal.SIGKILL)
        else:
            next(iter(server.open)).sendall(b"spin")
        program.wait()
        wait_until(lambda: not [one for one in below if runs(one)], what="the end of all processes")
        wait_until(lambda: not server.open, what="the end of all connections")
    finally:
        program.kill()
    check_nothing_is_left()
