"""Finds out whether this machine can provide a level, by trying it in a process that then ends."""

from __future__ import annotations

import os

from ..shared.isolation_policy import Isolation
from . import enter
from .root_folder import StepFailed


def why_not(level: str, isolation: Isolation) -> str:
    """Return what the machine refuses, "" if the level is possible. Raises OSError if it cannot be tried."""
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            _enter(level, isolation)
        except BaseException as error:  # noqa: BLE001 - a fork must not go on in the code of its parent
            os.write(write, str(error).encode("utf-8", "replace")[:4000])
        os._exit(0)
    os.close(write)
    told = b""
    while data := os.read(read, 4096):
        told += data
    os.close(read)
    os.waitpid(pid, 0)
    return told.decode("utf-8", "replace")


def _enter(level: str, isolation: Isolation) -> None:
    if level != "landlock":
        enter.enter_namespaces(level, isolation)
        if level == "full":
            try:
                pid = os.fork()
            except OSError as error:
                raise StepFailed("the first process of the new namespace", error) from None
            if pid:
                os.waitpid(pid, 0)
                return
        enter.enter_root(level, isolation)
    enter.restrict(level, isolation)
