"""TensorBoard's data server: the separate program that reads event files (package tensorboard-data-server).

TensorBoard can start it itself, but only after half a second of imports; it then looks for its port twice a
second and never notices its death. So the board's process starts it first, which loads runs while TensorBoard
is imported, passes its address on (--grpc_data_provider), and restarts it on the same port if it dies.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import subprocess
import time
from pathlib import Path

from ..runs.files import ProcessIdentity, remove_quietly

BINARY_VARIABLE = "TENSORBOARD_DATA_SERVER_BINARY"
_PORT_POLL_S = 0.005


class DataServerError(Exception):
    """The data server cannot run here; the board uses the slow loader instead. The text says why."""


class DataServer:
    """The data server of one board; it logs to the stderr of this process."""

    def __init__(self, binary: str, log_dir: str, *, port_file: Path, reload_s: int, samples: int) -> None:
        self._binary = binary
        # With --reload=0, which a fraction is cut to, it would load without a pause.
        self._flags = [
            f"--logdir={log_dir}",
            f"--reload={max(1, reload_s)}",
            f"--samples-per-plugin=scalars={samples}",
            "--host=127.0.0.1",
            f"--port-file={port_file}",
            # Its stdin is a pipe that only this process holds, so it ends with this process.
            "--die-after-stdin",
        ]
        self._port_file = port_file
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self.port = 0

    def start(self) -> None:
        """Start the process, on the port that it had before if it had one. Raises DataServerError."""
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
        """Wait until it listens on `port`. Raises DataServerError when it ended or did not listen in time."""
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

    def wait_for_end(self, timeout_s: float) -> bool:
        """Wait until the process has ended, at most this long; True when it has."""
        if self._process is None:
            return True
        if self._pidfd >= 0:
            select.select([self._pidfd], [], [], timeout_s)
        else:  # no pidfd before Linux 5.3 and on other systems
            time.sleep(timeout_s)
        return self._process.poll() is not None

    def identity(self) -> ProcessIdentity | None:
        """Return which process it is; None when there is none."""
        return None if self._process is None else ProcessIdentity.of(self._process.pid)

    def kill(self) -> None:
        """Kill the process and reap it."""
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
    """Return the path of the data server's program. Raises DataServerError where there is none.

    Nothing of TensorBoard is imported for it, which would take half a second.
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
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
