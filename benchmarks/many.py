"""Measure whether tasks get slower, and hkrunner larger, after 100,000 tasks whose records are removed again.

    scripts/bench many [--tasks 100000] [--keep 200] [--json]

One hkrunner serves a scripted worker. All tasks have ids of their own. Every hundredth prints a line, so that
its record is a folder; the others are in the journal. Meanwhile the records of all but the latest --keep are
removed. Each tenth of the tasks is one value; the ratios are to the first tenth. CPU and memory are those
of hkrunner's own process, memory after each tenth; files are those in its state folder.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import time
from pathlib import Path

import peers
import psutil
from driver import START, Connection, Driver, exit, initialize
from report import Bar, Report, quantile, to_json

ENTRY = Path(__file__).with_name("printing_algorithm.py")
PRINTS_EVERY = 100
WARM_UP = 2000
MB = 1_000_000
FIRST, LAST = "first tenth", "last tenth"
RATE, P50, P99 = "tasks/s", "start->done p50", "start->done p99"
CPU, RSS, FILES = "CPU per task", "RSS of hkrunner", "files in the state folder"
BARS = [
    Bar(RATE, 0.9, is_ratio=True, at_least=True),
    Bar(P50, 1.1, is_ratio=True),
    Bar(CPU, 1.1, is_ratio=True),
    Bar(RSS, 1.05, is_ratio=True),
]


class Tasks:
    """The tasks of one run: each is new."""

    def __init__(self, client: Connection) -> None:
        self._client = client
        self._numbers = itertools.count()

    def run(self, count: int) -> tuple[float, list[float]]:
        """Run so many tasks; return the time of all, and that of each from start to done, in seconds."""
        client, clock = self._client, time.perf_counter
        times = []
        began = clock()
        for number in itertools.islice(self._numbers, count):
            client.send(initialize([not number % PRINTS_EVERY], task=f"task-{number}"))
            client.expect(b"initialized")
            started = clock()
            client.send(START)
            client.expect(b"done")
            times.append(clock() - started)
        return clock() - began, times


def measure(report: Report, tasks: int, keep: int) -> None:
    peer = peers.hkrunner(f"--keep={keep}")
    with Driver() as driver, peer.started(driver.port, ENTRY) as process:
        client = driver.accept()
        of = Tasks(client)
        of.run(WARM_UP)
        own = psutil.Process(process.pid)
        folder = Path(own.cwd())
        for number in range(10):
            used = sum(own.cpu_times()[:2])
            took, times = of.run(tasks // 10)
            used = sum(own.cpu_times()[:2]) - used
            name = {0: FIRST, 9: LAST}.get(number, f"tenth {number + 1}")
            report.add(RATE, "", name, tasks // 10 / took)
            report.add(P50, "ms", name, quantile(times, 0.5) * 1000)
            report.add(P99, "ms", name, quantile(times, 0.99) * 1000)
            report.add(CPU, "ms", name, used / (tasks // 10) * 1000)
            report.add(RSS, "MB", name, own.memory_info().rss / MB)
            report.add(FILES, "", name, sum(len(files) for _, _, files in os.walk(folder)))
        with contextlib.suppress(OSError):
            client.send(exit())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--keep", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    report = Report(f"many: {options.tasks} tasks, the latest {options.keep} kept", reference=FIRST)
    measure(report, options.tasks, options.keep)
    facts = report.facts(BARS, LAST)
    print(to_json(facts) if options.json else report.text(BARS, LAST))
    return 1 if any(bar["holds"] is False for bar in facts["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
