"""The clients that the benchmarks measure (peers): how each is started, and its name in the tables."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from support import python_wrapper  # noqa: E402

HKRUNNER = Path(sysconfig.get_path("scripts"), "hkrunner")


@dataclass(frozen=True)
class Peer:
    """A program that serves a worker; its command and variables may contain {port} and {entry}."""

    name: str
    version: str
    command: tuple[str, ...]
    variables: dict[str, str | None] = field(default_factory=dict)

    @contextlib.contextmanager
    def started(self, port: int, entry: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run it in a new folder; on exit it has ended."""

        def filled(text: str) -> str:
            return text.replace("{port}", str(port)).replace("{entry}", str(entry))

        merged = {**os.environ, **self.variables}
        env = {name: filled(value) for name, value in merged.items() if value is not None}
        process = subprocess.Popen(
            [filled(word) for word in self.command],
            cwd=tempfile.mkdtemp(dir=_folders().name),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


@functools.cache
def _folders() -> tempfile.TemporaryDirectory[str]:
    """Return the parent folder of the peers' folders, which is removed when this process ends.

    Nothing is removed earlier, because ext4 checks each inode that was deleted in the last minutes before it
    creates one: deletions in one round would slow the next one down (measured: 0.3 ms per file).
    """
    return tempfile.TemporaryDirectory(prefix="hkrunner-bench-")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a peer that was told to exit, and kill its process group if it does not end."""
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def hkrunner(*options: str, name: str = "hkrunner", encoding: str = "json") -> Peer:
    """The installed hkrunner."""
    command = (str(HKRUNNER), "--entry", "{entry}", "--url", "ws://127.0.0.1:{port}", *options)
    return Peer(name, version("hkrunner"), (*command, "--encoding", encoding))


def hkrunner_without_records(encoding: str = "json") -> Peer:
    """hkrunner without records, like the other peers."""
    return hkrunner("--no-state", name="no records", encoding=encoding)


def hkrunner_with_bare_child() -> Peer:
    """hkrunner with the algorithm in the base interpreter of its environment, which has no packages."""
    base = getattr(sys, "_base_executable", sys.executable)
    return hkrunner("--no-state", "--python", base, name="no records")


def floor(encoding: str = "json") -> Peer:
    """The simplest client, in one process, with masking in C if that can be installed."""
    extra = _extra("wsaccel")
    return Peer("floor", version("websocket-client"), *_in_process("floor", encoding, extra))


def fast(encoding: str = "json") -> Peer | None:
    """The fastest client, in one process; None if its packages cannot be installed."""
    extra = _extra("picows", "uvloop")
    if extra is None:
        return None
    installed = next(extra.glob("picows-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    return Peer("fast", installed, *_in_process("fast", encoding, extra))


@functools.cache
def _extra(*packages: str) -> Path | None:
    """Return a folder with these packages, made on first use; None if they cannot be installed.

    Not into hkrunner's own environment: websocket-client imports python-socks where it finds it, which
    picows brings along, and that alone makes every start 20 ms longer.
    """
    folder = ROOT / "build" / f"benchmarks-{packages[0]}-{sys.version_info[0]}.{sys.version_info[1]}"
    if not folder.exists():
        part = Path(f"{folder}.part")
        shutil.rmtree(part, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        ended = subprocess.run([*pip, "--target", part, *packages], check=False, stdout=sys.stderr)
        if ended.returncode:
            return None
        part.rename(folder)
    return folder


WHY_NO_FAST = "no fast client: picows or uvloop could not be installed here"


def _in_process(
    which: str, encoding: str, extra: Path | None
) -> tuple[tuple[str, ...], dict[str, str | None]]:
    program = str(Path(__file__).with_name("in_process.py"))
    command = (sys.executable, program, which, "{port}", "{entry}", encoding)
    return command, {"PYTHONPATH": None if extra is None else str(extra)}


def everybody(encoding: str = "json") -> list[Peer]:
    """Return the peers that can run on this machine."""
    there = [hkrunner(encoding=encoding), hkrunner_without_records(encoding), wrapper(encoding)]
    return [peer for peer in [*there, floor(encoding), fast(encoding)] if peer is not None]


def wrapper(encoding: str = "json") -> Peer | None:
    """hkube-python-wrapper, installed on first use; None if there is no Python that it supports."""
    python = python_wrapper.find_python()
    if python is None:
        return None
    interpreter, installed = python_wrapper.environment(python)
    variables = {**python_wrapper.variables(0, encoding), "WORKER_SOCKET_PORT": "{port}"}
    return Peer("wrapper", installed, (str(interpreter), str(python_wrapper.MAIN), "{entry}"), variables)


WHY_NO_WRAPPER = python_wrapper.ABSENT
