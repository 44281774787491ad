"""Measure how a tree of hostile processes is killed: by hkrunner, a walk with psutil, pebble and loky."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil
from sandbox_runs import HKRUNNER, PROGRAMS, call, values

#: Environment variable by which the processes of one tree are found.
MARKER = "HKRUNNER_BENCH_TREE"
#: Processes of tests/algorithms/hostile_tree.py.
TREE = 56


def living(tree: str) -> set[int]:
    """Return the pids of the tree's processes that run."""
    found = set()
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environ = Path(f"/proc/{one.pid}/environ").read_bytes()
            if f"{MARKER}={tree}".encode() in environ and one.status() != psutil.STATUS_ZOMBIE:
                found.add(one.pid)
    return found - {os.getpid()}


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def kill(peer: str) -> None:
    """Start a hostile tree, kill it in the way of the peer, and count what survives."""
    tree = uuid.uuid4().hex
    env = {**os.environ, MARKER: tree}
    helpers = {"pebble": PEBBLE, "loky": LOKY}
    with tempfile.TemporaryDirectory(prefix="hkrunner-bench-") as folder:
        if peer == "hkrunner":
            command = [str(HKRUNNER), "-e", str(PROGRAMS / "hostile_tree.py"), "-i", '["misbehave"]']
        elif peer in helpers:
            command = [sys.executable, "-c", helpers[peer], str(PROGRAMS)]
        else:
            command = call("hostile_tree.py", ["misbehave"])
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        deadline = time.monotonic() + 20
        extra = {"hkrunner": 2, "pebble": 1, "loky": 1}.get(peer, 0)
        while len(living(tree)) < TREE + extra and time.monotonic() < deadline:
            time.sleep(0.02)
        # The helper processes of loky and multiprocessing do not belong to the tree.
        there = {pid for pid in living(tree) if b"resource_tracker" not in command_of(pid)}
        began = time.perf_counter()
        if peer == "hkrunner":
            process.kill()  # the worst case: the warden must notice it by itself
        elif peer in helpers:
            process.stdin.write(b"end\n")
            process.stdin.flush()
        else:
            root = psutil.Process(process.pid)
            for one in [*root.children(recursive=True), root]:
                with contextlib.suppress(psutil.Error):
                    one.kill()
        there.discard(process.pid)
        deadline = began + 4
        while any(map(is_alive, there)) and time.perf_counter() < deadline:
            time.sleep(0.0005)
        took_ms = (time.perf_counter() - began) * 1000
        left = [pid for pid in there if is_alive(pid)]
        process.stdin.close()
        process.kill()
        process.wait()
        for pid in living(tree):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    values["survivors of 56", peer].append(len(left))
    if not left:
        values["kill of 56, ms", peer].append(took_ms)


PEBBLE = """
import sys; sys.path.insert(0, sys.argv[1])
import hostile_tree, pebble
pool = pebble.ProcessPool(max_workers=1)
future = pool.schedule(hostile_tree.start, args=[{"input": ["misbehave"]}, None])
sys.stdin.readline()
future.cancel()
pool.stop()
sys.stdin.readline()
"""
LOKY = """
import sys; sys.path.insert(0, sys.argv[1])
import hostile_tree, loky
pool = loky.ProcessPoolExecutor(max_workers=1)
future = pool.submit(hostile_tree.start, {"input": ["misbehave"]}, None)
sys.stdin.readline()
pool.shutdown(kill_workers=True)
sys.stdin.readline()
"""
