"""Who is measured: how each one is started against the driver, and what it is called in the tables."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from support import python_wrapper  # noqa: E402

HKRUNNER = Path(sysconfig.get_path("scripts"), "hkrunner")


@dataclass(frozen=True)
class Peer:
    """A program that serves a worker; {port} and {entry} stand in its command and variables."""

    name: str
    version: str
    command: tuple[str, ...]
    variables: dict[str, str | None] = field(default_factory=dict)

    @contextlib.contextmanager
    def started(self, port: int, entry: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run it in a folder of its own; on exit it is gone."""

        def filled(text: str) -> str:
            return text.replace("{port}", str(port)).replace("{entry}", str(entry))

        merged = {**os.environ, **self.variables}
        env = {name: filled(value) for name, value in merged.items() if value is not None}
        with tempfile.TemporaryDirectory(prefix="hkrunner-bench-") as folder:
            process = subprocess.Popen(
                [filled(word) for word in self.command],
                cwd=folder,
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


def _end(process: subprocess.Popen[bytes]) -> None:
    """It was told to exit, or has failed; hkrunner leaves nothing, and neither does a killed group."""
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def hkrunner(*options: str, name: str = "hkrunner") -> Peer:
    """The installed hkrunner."""
    from importlib.metadata import version

    command = (str(HKRUNNER), "--entry", "{entry}", "--url", "ws://127.0.0.1:{port}", *options)
    return Peer(name, version("hkrunner"), command)


def wrapper() -> Peer | None:
    """hkube-python-wrapper, installed on first use; None when no interpreter serves it."""
    python = python_wrapper.find_python()
    if python is None:
        return None
    interpreter, version = python_wrapper.environment(python)
    variables = {**python_wrapper.variables(0, "json"), "WORKER_SOCKET_PORT": "{port}"}
    return Peer("wrapper", version, (str(interpreter), str(python_wrapper.MAIN), "{entry}"), variables)


WHY_NO_WRAPPER = python_wrapper.ABSENT
