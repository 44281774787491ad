"""Starts a process of this package: a board, or the one that serves HKube's routes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ..sandbox.parent import orphan_cleanup

_START = os.path.join(os.path.dirname(os.path.abspath(__file__)), "start.py")
#: Variables of the libraries that a board is made of: they are set for user code with other versions of them.
#: PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=cpp, for one, makes TensorBoard fail with protobuf 4 or newer.
_LIBRARY_PREFIXES = ("PROTOCOL_BUFFERS_", "GRPC_", "RUST_")


def spawn(module: str, first_line: bytes, log: Path) -> subprocess.Popen[bytes]:
    """Start a process that runs the module of start.py's table. Raises OSError.

    Its stdin holds the line and stays open, its stdout is a pipe that never blocks, its stderr the log.
    """
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-E", _START, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_fd,
            cwd="/",
            env=_environment(os.environ),
            start_new_session=True,
            bufsize=0,
        )
    finally:
        os.close(log_fd)
    orphan_cleanup.spare(process)
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(first_line)  # far shorter than a pipe's buffer, so this never blocks
    os.set_blocking(process.stdout.fileno(), False)
    return process


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a board: hkrunner's without those that would change or break TensorBoard.

    gRPC would look for the data server on 127.0.0.1 through a proxy. PYTHON* is ignored by -E.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.lower().endswith("_proxy") and not name.startswith(_LIBRARY_PREFIXES)
    }
    return {**kept, "GRPC_VERBOSITY": "ERROR", "TF_CPP_MIN_LOG_LEVEL": "3"}
