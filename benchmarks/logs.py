"""Measure the cost of output, with an algorithm that prints 100,000 lines: `scripts/bench logs`.

The same algorithm prints the same lines to a pipe that is read as fast as it can be: once with the pipe as
its own stdout, in a bare interpreter, and once in hkrunner, which reads them, keeps them and passes them on.
They take turns, round by round. `printing` is the time that the algorithm takes for it, `seen` the time from
its first line to its last one as the reader at the end of the pipe sees them; every line is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

LINES = 100_000
BAR = 1.2
ALGORITHM = """
import time

def start(args, api):
    began = time.perf_counter()
    for number in range({lines}):
        print(f"line {{number}}")
    return time.perf_counter() - began
"""
MAIN = "import sys, algorithm; sys.stderr.write(repr(algorithm.start(None, None)))"
HKRUNNER = Path(sysconfig.get_path("scripts"), "hkrunner")


@dataclass(frozen=True)
class Round:
    """The times of one run, in seconds."""

    printing_s: float
    seen_s: float


def run_inherited(folder: Path, lines: int) -> Round:
    with subprocess.Popen(
        [sys.executable, "-u", "-c", MAIN], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        seen_s = read(process.stdout.fileno(), lines)
        return Round(float(process.stderr.read()), seen_s)


def run_ours(folder: Path, lines: int) -> Round:
    command = [HKRUNNER, "-q", "-e", "algorithm.py", "-i", "1"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        seen_s = read(process.stderr.fileno(), lines)
        return Round(float(json.loads(process.stdout.read())), seen_s)


def read(fd: int, lines: int) -> float:
    """Read to the end; return the time from the first byte to the last. Raises if a line is out of place."""
    pieces, began, ended = [], 0.0, 0.0
    while data := os.read(fd, 1 << 20):
        ended = time.perf_counter()
        began = began or ended
        pieces.append(data)
    expected = "".join(f"line {number}\n" for number in range(lines)).encode()
    if b"".join(pieces) != expected:
        raise RuntimeError("not all lines arrived, or not in order")
    return ended - began


def show(name: str, times: list[float]) -> str:
    low, middle, high = min(times), statistics.median(times), max(times)
    return f"{name:<22}{middle * 1000:8.0f} ms  ({low * 1000:.0f}..{high * 1000:.0f})"


def main() -> int:
    """Print the table; the exit status says whether the bar holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    inherited, ours = [], []
    with tempfile.TemporaryDirectory(prefix="hkrunner-bench-") as name:
        folder = Path(name)
        (folder / "algorithm.py").write_text(ALGORITHM.format(lines=LINES))
        for number in range(rounds + 1):
            pair = run_inherited(folder, LINES), run_ours(folder, LINES)
            if number:  # the first run is a warm-up
                inherited.append(pair[0])
                ours.append(pair[1])
    print(f"{LINES:,} lines, {rounds} rounds: median (min..max); all seen, in order\n")
    holds = True
    for what in ("printing_s", "seen_s"):
        floor, mine = ([getattr(one, what) for one in runs] for runs in (inherited, ours))
        ratio = statistics.median(mine) / statistics.median(floor)
        holds &= ratio <= BAR
        label = what.partition("_")[0]
        print(show(f"{label}, inherited", floor))
        print(show(f"{label}, hkrunner", mine))
        print(f"{'':<22}{ratio:8.2f} x   bar {BAR} x: {'holds' if ratio <= BAR else 'MISSED'}\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
