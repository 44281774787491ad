"""TensorBoard's data server: the separate program that reads event files (package tensorboard-data-server).

TensorBoard would start it itself, but only after half a second of imports, would then look for its port
twice a second, and would never notice its death. We start it first, so that it loads runs while TensorBoard
is imported, hand its address over (--grpc_data_provider), and start it again on the same port if it dies.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import subprocess
import time
from pathlib import Path

from ..runs.files import Identity, remove_quietly

BINARY_VARIABLE = "TENSORBOARD_DATA_SERVER_BINARY"
_PORT_POLL_S = 0.005


class DataServerError(Exception):
    """It cannot run here; the text says why. The board goes on without, with the slow loader."""


class DataServer:
    """The data server of one board; its log goes to our stderr."""

    def __init__(self, binary: str, log_dir: str, *, port_file: Path, reload_s: int, samples: int) -> None:
        self._binary = binary
        # --reload=0 would make it spin: seconds are whole, and at least one (BOARDS 1.3).
        self._flags = [
            f"--logdir={log_dir}",
            f"--reload={max(1, reload_s)}",
            f"--samples-per-plugin=scalars={samples}",
            "--host=127.0.0.1",
            f"--port-file={port_file}",
            # It reads its stdin, a pipe that only we hold: when we die, however, it does.
            "--die-after-stdin",
        ]
        self._port_file = port_file
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self.port = 0

    def start(self) -> None:
        """It is being started, on the port it had before if it had one. Raises DataServerError."""
        remove_quietly(str(self._port_file))
        try:
            self._process = subprocess.Popen(
                [self._binary, *self._flags, f"--port={self.port}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
        except OSError as error:
            raise DataServerError(f"{self._binary} cannot be executed: {error.strerror}") from error
        with contextlib.suppress(OSError, AttributeError):
            self._pidfd = os.pidfd_open(self._process.pid)

    def wait_for_port(self, *, deadline_s: float) -> None:
        """It listens on `port`. Raises DataServerError when it ended or said nothing in time."""
        try:
            self.port = self._read_port(deadline_s)
        finally:
            remove_quietly(str(self._port_file))

    def _read_port(self, deadline_s: float) -> int:
        assert self._process is not None
        end = time.monotonic() + deadline_s
        while not (text := _read(self._port_file)).endswith("\n"):
            if self._process.poll() is not None:
                raise DataServerError(f"{self._binary} ended at once with {self._process.returncode}")
            if time.monotonic() > end:
                raise DataServerError(f"{self._binary} did not listen within {deadline_s:g} s")
            time.sleep(_PORT_POLL_S)
        return int(text)

    def wait_for_death(self, timeout_s: float) -> bool:
        """Wait until it has died, at most so long; True when it has."""
        if self._process is None:
            return True
        if self._pidfd >= 0:
            select.select([self._pidfd], [], [], timeout_s)
        else:  # no pidfd before Linux 5.3 and on other systems
            time.sleep(timeout_s)
        return self._process.poll() is not None

    def identity(self) -> Identity | None:
        return None if self._process is None else Identity.of(self._process.pid)

    def kill(self) -> None:
        """It is gone, and reaped."""
        if self._process is None:
            return
        remove_quietly(str(self._port_file))
        self._process.kill()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._process = None
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def find_binary() -> str:
    """The data server's file. Raises DataServerError where there is none.

    Looked for without importing anything of TensorBoard, which takes half a second.
    """
    if chosen := os.environ.get(BINARY_VARIABLE):
        return chosen
    spec = importlib.util.find_spec("tensorboard_data_server")
    if spec is None or spec.origin is None:
        raise DataServerError("the package tensorboard-data-server is not installed")
    binary = os.path.join(os.path.dirname(spec.origin), "bin", "server")
    if not os.path.exists(binary):
        raise DataServerError("the package tensorboard-data-server has no program for this platform")
    return binary


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
