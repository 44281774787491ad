"""Finding and ending the processes that a test has started, wherever they went."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil

from .waiting import wait_until

# In the environment of everything that a test starts: its value is different for each test.
MARKER = "HKRUNNER_TEST_MARKER"


def marked(value: str, *, variable: str = MARKER) -> set[psutil.Process]:
    """The processes, whoever their parent is now, that were started with variable=value."""
    wanted = f"{variable}={value}".encode()
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        # Another user's process, or one that has just gone: neither is of this test.
        with contextlib.suppress(OSError, psutil.Error):
            if wanted in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                found.add(psutil.Process(int(name)))
    return found


def family(pid: int) -> set[psutil.Process]:
    """The process and all below it; empty when it has gone."""
    try:
        process = psutil.Process(pid)
        return {process, *process.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def kill_all(processes: set[psutil.Process], *, deadline_s: float = 5.0) -> None:
    """SIGKILL; on return none of them runs. Those that are children of ours stay to be reaped."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until(
        lambda: not any(runs(process) for process in processes),
        deadline_s=deadline_s,
        what=f"the end of {', '.join(map(describe, processes))} after SIGKILL",
    )


def reap(process: psutil.Process) -> None:
    """Collect a dead child of ours that nobody waits for."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)


def runs(process: psutil.Process) -> bool:
    """Whether it can still do anything: a zombie cannot."""
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
