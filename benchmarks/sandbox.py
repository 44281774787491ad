"""Measure how exactly limits are enforced and how completely a tree is killed: hkrunner and its alternatives.

    scripts/bench sandbox [--rounds 5] [--quick] [--json]

The alternatives are a loop with psutil that sums up RSS and kills the tree (every 100 ms or 1 s), cpulimit
(Debian's package), pebble and loky (PyPI), and a cgroup v1 where this machine permits one. An alternative
that is not installed is left out. All of them take turns in each round. The limited program itself measures
its memory, CPU time and lateness. sandbox_kill.py has the kills, sandbox_runs.py what both files need.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import noise
import psutil
from report import interleaved, machine, summary
from sandbox_kill import kill
from sandbox_runs import HKRUNNER, PROGRAMS, call, end_session, hkrunner, values

MI = 1 << 20
ALLOWED = 256 * MI
CORES = 0.5
V1 = Path("/sys/fs/cgroup")
BARS = [
    ("overshoot, 1 process, MiB", "median", 4.0),
    ("overshoot, 4 processes, MiB", "median", 32.0),
    ("CPU error, 2 threads, %", "median", 5.0),
    ("CPU error, 4 processes, %", "median", 5.0),
    ("light program late p95, ms", "median", 2.0),
    ("survivors of 56", "max", 0.0),
    ("kill of 56, ms", "median", 50.0),
    ("monitor, % of a core", "median", 1.0),
    ("restart to first answer with --spare, ms", "median", 5.0),
]


# --- memory


@contextlib.contextmanager
def v1_group(controller: str, name: str, limit: str) -> Iterator[Path]:
    group = V1 / controller / f"hkrunner-bench-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    try:
        (group / name).write_text(limit)
        yield group
    finally:
        for _ in range(500):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.01)


def joined(group: Path) -> Callable[[], None]:
    return lambda: void((group / "cgroup.procs").write_text(str(os.getpid())))


def void(_: object) -> None:
    pass


def overshoot(peer: str, processes: int) -> None:
    count = max(1, processes)
    highest: int | None = None
    with tempfile.NamedTemporaryFile(prefix="hkrunner-bench-") as account:
        account.write(bytes(24 * count))
        account.flush()
        given = ["pages", 900 if count == 1 else 450, processes, account.name]
        if peer == "hkrunner":
            hkrunner("limits_touches.py", given, args=("--mem", "256Mi", "--mem-mode", "rss"))
        elif peer == "cgroup v1":
            # There the kernel kills one process after the other, so their peaks are not simultaneous: read
            # the group's high-water mark.
            with v1_group("memory", "memory.limit_in_bytes", str(ALLOWED)) as group:
                ended_by_itself(call("limits_touches.py", given), joined(group))
                highest = int((group / "memory.max_usage_in_bytes").read_text())
        else:
            poll_with_psutil(call("limits_touches.py", given), float(peer.split()[1]) / 1000)
        rows = list(struct.iter_unpack("QQQ", Path(account.name).read_bytes()))
    own = 8 * MI + 2 * MI * processes  # interpreters, roughly; the same for all peers
    name = "1 process" if count == 1 else "4 processes"
    used = highest if highest is not None else sum(row[0] for row in rows) + own
    over = (used - ALLOWED) / MI
    values[f"overshoot, {name}, MiB", peer].append(max(0.0, over))


def ended_by_itself(command: list[str], before: Callable[[], None]) -> None:
    process = subprocess.Popen(command, preexec_fn=before, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 3
    try:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        end_session(process)


def poll_with_psutil(command: list[str], every_s: float) -> None:
    """Poll the RSS of the tree and kill it above the limit, as many projects do."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    root = psutil.Process(process.pid)
    deadline = time.monotonic() + 15
    time.sleep(random.random() * every_s)  # the program grows at any phase of the poll
    try:
        while process.poll() is None and time.monotonic() < deadline:
            total = 0
            for one in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += one.memory_info().rss
            if total > ALLOWED:
                break
            time.sleep(every_s)
    except psutil.NoSuchProcess:
        pass
    finally:
        end_session(process)


# --- CPU


def cpu(peer: str, shape: str, seconds: float) -> None:
    given = [shape, seconds]
    program = "limits_spins_measured.py"
    if peer == "hkrunner":
        (task,) = hkrunner(program, given, args=("--cpu", str(CORES)))
        found = task["output"]
    elif peer == "cgroup v1":
        with v1_group("cpu", "cpu.cfs_quota_us", str(int(CORES * 100_000))) as group:
            found = printed(call(program, given), joined(group))
    else:
        process = subprocess.Popen(
            call(program, given), stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        tool = subprocess.Popen(
            ["cpulimit", "-l", str(int(CORES * 100)), cpulimit_for_trees(), "-z", "-p", str(process.pid)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(0.5)
        if tool.poll() is not None:
            end_session(process)
            raise RuntimeError(
                f"cpulimit ended at once, with {tool.returncode}: what it limits was not measured"
            )
        text, _ = process.communicate(timeout=90)
        tool.wait(timeout=10)
        found = json.loads(text)
    if shape == "light":
        values["light program late p95, ms", peer].append(found["late_ms"])
        return
    name = {"threads": "2 threads", "processes": "4 processes"}[shape]
    error = (found["cpu_s"] / found["wall_s"] / CORES - 1) * 100
    values[f"CPU error, {name}, %", peer].append(error)


@functools.cache
def cpulimit_for_trees() -> str:
    """Return the option for a process and its children: there are two tools of this name."""
    told = subprocess.run(["cpulimit", "--help"], capture_output=True, text=True, check=False)
    for option in ("--monitor-forks", "--include-children"):
        if option in told.stdout + told.stderr:
            return option
    raise RuntimeError("this cpulimit has no option for the children of a process")


def printed(command: list[str], before: Callable[[], None]) -> Any:
    ended = subprocess.run(command, preexec_fn=before, stdout=subprocess.PIPE, timeout=90, check=True)
    return json.loads(ended.stdout)


# --- cost


def cpu_of(pid: int) -> float:
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e9


def cost(peer: str, seconds: float) -> None:
    """Measure the monitor's CPU use while the program sleeps, far below a limit of 1 GiB."""
    with tempfile.TemporaryDirectory(prefix="hkrunner-bench-") as folder:
        if peer == "hkrunner":
            entry = ["-e", str(PROGRAMS / "sleeps.py"), "-i", '["misbehave"]', "--grace", "0.1"]
            command = [str(HKRUNNER), *entry, "--mem", "1Gi"]
        else:
            every = str(float(peer.split()[1]) / 1000)
            command = [sys.executable, "-c", POLL, every]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=folder, **quiet)
        time.sleep(2.0)
        who = process.pid
        if peer == "hkrunner":
            (who,) = (one.pid for one in psutil.Process(who).children() if "warden" in one.cmdline())
        began, used = time.perf_counter(), cpu_of(who)
        time.sleep(seconds)
        share = (cpu_of(who) - used) / (time.perf_counter() - began) * 100
        process.terminate()
        process.wait()
    values["monitor, % of a core", peer].append(share)


POLL = """
import os, psutil, subprocess, sys, time
me = psutil.Process()
while True:
    sum(one.memory_info().rss for one in [me, *me.children(recursive=True)])
    time.sleep(float(sys.argv[1]))
"""


def restart() -> None:
    """Measure the second task after the first one has killed its process, with and without --spare."""
    tasks = hkrunner("limits_dies_late.py", ["misbehave"], ["behave"], args=("--spare",))
    values["restart to first answer with --spare, ms", "hkrunner"].append(tasks[1]["durationMs"])
    tasks = hkrunner("limits_dies_late.py", ["misbehave"], ["behave"])
    values["restart to first answer without, ms", "hkrunner"].append(tasks[1]["durationMs"])


# --- the command


def peers_of(names: list[str]) -> list[str]:
    there = {
        "cgroup v1": os.access(V1 / "memory", os.W_OK) and (V1 / "memory/memory.limit_in_bytes").exists(),
        "cpulimit": shutil.which("cpulimit") is not None,
        "pebble": importlib.util.find_spec("pebble") is not None,
        "loky": importlib.util.find_spec("loky") is not None,
    }
    return [name for name in names if there.get(name, True)]


def check(figure: str, how: str, most: float) -> dict[str, Any]:
    mine = [abs(one) for one in values[figure, "hkrunner"]]
    seen = None if not mine else max(mine) if how == "max" else statistics.median(mine)
    return {
        "bar": f"{figure}: {how} <= {most:g}",
        "seen": seen,
        "holds": None if seen is None else seen <= most,
    }


def text(bars: list[dict[str, Any]], before: noise.Noise, after: noise.Noise) -> str:
    figures = list(dict.fromkeys(figure for figure, _ in values))
    lines = [f"limits and kills ({machine()}, Linux {os.uname().release}); median (min .. max)"]
    lines += [f"before: {before.text()}", f"after: {after.text()}", ""]
    for figure in figures:
        lines.append(figure)
        for name, found in values.items():
            told = summary(found)
            if name[0] == figure and told is not None:
                spread = f"({told['min']:.2f} .. {told['max']:.2f})"
                lines.append(f"    {name[1]:<16}{told['median']:>9.2f}  {spread:<22} {len(found)} runs")
    lines.append("")
    for bar in bars:
        word = {True: "ok", False: "MISSED", None: "not measured"}[bar["holds"]]
        seen = "" if bar["seen"] is None else f": {bar['seen']:.2f}"
        lines.append(f"{word:>13}  {bar['bar']}{seen}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds, shorter ones")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds, seconds = (2, 2.0) if options.quick else (options.rounds, 5.0)

    before = noise.measure()
    polled = ["psutil 100 ms", "psutil 1000 ms"]
    for processes in (0, 4):
        who = peers_of(["hkrunner", *polled, "cgroup v1"])
        interleaved(rounds, who, lambda peer, n=processes: overshoot(peer, n))
    for shape in ("threads", "processes", "light"):
        who = peers_of(["hkrunner", "cpulimit", "cgroup v1"])
        interleaved(min(rounds, 3), who, lambda peer, one=shape: cpu(peer, one, seconds))
    interleaved(rounds, peers_of(["hkrunner", "psutil walk", "pebble", "loky"]), kill)
    interleaved(min(rounds, 3), ["hkrunner", *polled], lambda peer: cost(peer, seconds))
    for _ in range(rounds):
        restart()

    after = noise.measure()
    bars = [check(*bar) for bar in BARS]
    if options.json:
        figures = [
            {"figure": f, "peer": p, "values": v, **(summary(v) or {})} for (f, p), v in values.items()
        ]
        noises = {"before": before._asdict(), "after": after._asdict()}
        print(json.dumps({"machine": machine(), **noises, "figures": figures, "bars": bars}, indent=2))
    else:
        print(text(bars, before, after))
    return 0 if all(bar["holds"] is not False for bar in bars) else 1


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # adopt and reap what a peer leaves behind
    sys.exit(main())
