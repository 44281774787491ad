"""The tasks of the benchmark of pools: in a module of their own, which every pool's workers can import."""

from __future__ import annotations

import os
import signal


def plus_one(number: int) -> int:
    return number + 1


def length(data: bytes) -> int:
    return len(data)


def segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def use_memory(size: int) -> int:
    return len(b"x" * size)


def loop() -> None:
    while True:
        pass
