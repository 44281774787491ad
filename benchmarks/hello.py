"""Measure round trip and start-up of a minimal task: hkrunner and hkube-python-wrapper on a scripted worker.

    scripts/bench hello [--rounds 3] [--tasks 1000] [--json]

init->initialized and start->done are seen from the worker's side of the socket, once the peer is warm.
connected and first done count from the start of the command. A local run counts to its first byte of output.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peers
from driver import EXIT, Driver, initialize
from report import Bar, Report, interleaved, quantile, to_json

ENTRY = Path(__file__).with_name("hello_algorithm.py")
WARM_UP = 200
FIRST_RESULT = "local run: first result"
BARS = [
    Bar("start->done p50", 0.20, is_ratio=True),
    Bar("start->done p99", 0.20, is_ratio=True),
    Bar("tasks/s", 5.0, is_ratio=True, at_least=True),
    Bar("connected", 0.65, is_ratio=True),
    Bar("first done", 0.65, is_ratio=True),
    Bar(FIRST_RESULT, 500.0, is_ratio=False),
]


def measure_tasks(report: Report, peer: peers.Peer, count: int) -> None:
    """Measure many tasks, one after the other."""
    task = initialize(["world"])
    # Each peer has its own worker: a peer that is ending may connect once more.
    with Driver() as driver, peer.started(driver.port, ENTRY):
        client = driver.accept()
        client.run(task, WARM_UP)
        times = client.run(task, count)
        client.send(EXIT)
    for share, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99")):
        report.add(f"init->initialized {name}", "ms", peer.name, quantile(times.initialized, share) * 1000)
    for share, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99")):
        report.add(f"start->done {name}", "ms", peer.name, quantile(times.done, share) * 1000)
    report.add("tasks/s", "", peer.name, count / times.total)


def measure_start(report: Report, peer: peers.Peer) -> None:
    """Measure the time from the start of the command to the first answer."""
    with Driver() as driver:
        began = time.perf_counter()
        with peer.started(driver.port, ENTRY):
            client = driver.accept()
            connected = time.perf_counter()
            client.run(initialize(["world"]), 1)
            done = time.perf_counter()
            client.send(EXIT)
    report.add("connected", "ms", peer.name, (connected - began) * 1000)
    report.add("first done", "ms", peer.name, (done - began) * 1000)


def measure_local_run(report: Report) -> None:
    """Measure the time from the start of the command to the first byte of its result."""
    command = [str(peers.HKRUNNER), "--entry", str(ENTRY), "--input", '["world"]']
    with tempfile.TemporaryDirectory(prefix="hkrunner-bench-") as folder:
        began = time.perf_counter()
        with subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            first = process.stdout.read(1)
            seen = time.perf_counter()
            process.stdout.read()
    if not first or process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    report.add(FIRST_RESULT, "ms", "hkrunner", (seen - began) * 1000)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=1000, help="measured tasks a round")
    parser.add_argument("--no-state", action="store_true", help="a second hkrunner, that keeps no records")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    mine = peers.hkrunner()
    theirs = peers.wrapper()
    everybody = [mine, *([theirs] if theirs else [])]
    if options.no_state:
        everybody.insert(1, peers.hkrunner("--no-state", name="no state"))
    named = ", ".join(f"{peer.name} {peer.version}" for peer in everybody)
    report = Report(f"hello: {named}; {options.rounds} rounds of {options.tasks} tasks")
    if theirs is None:
        report.notes.append(peers.WHY_NO_WRAPPER)
    interleaved(options.rounds, everybody, lambda peer: measure_tasks(report, peer, options.tasks))
    interleaved(options.rounds * 3, everybody, lambda peer: measure_start(report, peer))
    for _ in range(options.rounds * 3):
        measure_local_run(report)
    facts = report.facts(BARS, mine.name)
    print(to_json(facts) if options.json else report.text(BARS, mine.name))
    return 1 if any(bar["holds"] is False for bar in facts["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
