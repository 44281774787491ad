"""Find and kill the processes that a test has started, whatever their parent is now."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import psutil

from .waiting import wait_until

# A variable in the environment of every process that a test starts, with a different value for each test.
MARKER = "HKRUNNER_TEST_MARKER"


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def marked(value: str, *, variable: str = MARKER, among: Iterable[int] | None = None) -> set[psutil.Process]:
    """Return those of `among`, or of all, that were started with variable=value, whatever their parent is."""
    wanted = f"{variable}={value}".encode()
    found = set()
    for pid in all_pids() if among is None else among:
        if pid == os.getpid():
            continue
        # A process of another user, or one that has just ended.
        with contextlib.suppress(OSError, psutil.Error):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(psutil.Process(pid))
    return found


def descendants(among: Iterable[int]) -> set[psutil.Process]:
    """Return the descendants of this process. psutil's children() would read the state of every process."""
    found = set()
    for pid in among:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if any(parent.pid == os.getpid() for parent in process.parents()):
                found.add(process)
    return found


def family(pid: int) -> set[psutil.Process]:
    """Return the process and its descendants; none if it has ended."""
    try:
        process = psutil.Process(pid)
        return {process, *process.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def kill_all(processes: set[psutil.Process], *, deadline_s: float = 15.0) -> None:
    """Kill the processes; on return none of them runs. Children of this process remain to be reaped."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until(
        lambda: not any(runs(process) for process in processes),
        deadline_s=deadline_s,
        what=f"the end of {', '.join(map(describe, processes))} after SIGKILL",
    )


def reap(process: psutil.Process) -> None:
    """Reap a dead child for which nothing else waits."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)


def runs(process: psutil.Process) -> bool:
    """Whether the process runs, and is not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def describe(process: psutil.Process) -> str:
    try:
        command = " ".join(process.cmdline()) or process.name()
        return f"process {process.pid} ({process.status()}: {command[:160]})"
    except psutil.ZombieProcess:
        return f"process {process.pid} (ended, but nobody waits for it)"
    except psutil.NoSuchProcess:
        return f"process {process.pid} (gone by now)"
