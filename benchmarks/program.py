"""Measure what hkrunner adds to a program in another language: HKube's wrapper for Node, with and without it.

    scripts/bench program [--rounds 5] [--tasks 1000] [--json]

Both serve the same scripted worker, in turns, and give their input back. hkrunner relays the messages between
worker and program. `no records` is hkrunner --no-state: the wrapper writes no records either.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import time

import peers
from driver import START, Connection, Driver, exit, initialize
from report import Bar, Report, quantile, to_json
from support import node_wrapper, npm

REFERENCE = "node"
WARM_UP = 500
SIZES = {"1 MB": 1_000_000, "10 MB": 10_000_000}
LARGE_TASKS = 5
TINY, MORE = "tiny json: task p50", "tiny json: p50 above that of the wrapper"
BARS = [
    Bar(MORE, 0.08, is_ratio=False),
    Bar("str 10 MB json", 1.15, is_ratio=True),
]


def everybody() -> list[peers.Peer]:
    """Return the wrapper alone, and below hkrunner."""
    folder = node_wrapper.installed()
    found = node_wrapper.variables(folder, 0, "json")
    variables: dict[str, str | None] = {**found, "WORKER_SOCKET_URL": "ws://127.0.0.1:{port}"}
    program = f"node {shlex.quote(str(node_wrapper.PROGRAM))}"

    def peer(name: str, command: str) -> peers.Peer:
        # The wrapper reads the package.json of its working folder.
        text = f"here=$PWD; cd {shlex.quote(str(folder))} && exec {command}"
        return peers.Peer(name, node_wrapper.PACKAGE, ("sh", "-c", text), variables)

    hkrunner = f"{peers.HKRUNNER} --command {shlex.quote(program)} --url ws://127.0.0.1:{{port}}"
    return [
        peer("hkrunner", f'{hkrunner} --state-dir "$here/.hkrunner"'),
        peer("no records", f"{hkrunner} --no-state"),
        peer(REFERENCE, program),
    ]


def run_task(client: Connection, task: bytes) -> float:
    """Run a task; return its time from initialize to done, in ms."""
    began = time.perf_counter()
    client.send(task)
    client.expect(b"initialized")
    client.send(START)
    client.expect(b"done")
    return (time.perf_counter() - began) * 1000


def measure(report: Report, peer: peers.Peer, count: int) -> float:
    """Measure the peer once; return its time for a tiny task."""
    tiny = initialize(["give", 1])
    with Driver() as driver, peer.started(driver.port, node_wrapper.PROGRAM):
        client = driver.accept()
        for _ in range(WARM_UP):
            run_task(client, tiny)
        began = time.perf_counter()
        times = [run_task(client, tiny) for _ in range(count)]
        rate = count / (time.perf_counter() - began)
        p50 = quantile(times, 0.5)
        report.add(TINY, "ms", peer.name, p50)
        report.add("tiny json: task p99", "ms", peer.name, quantile(times, 0.99))
        report.add("tiny json: tasks/s", "", peer.name, rate)
        for name, size in SIZES.items():
            large = initialize(["give", "x" * size])
            run_task(client, large)
            times = [run_task(client, large) for _ in range(LARGE_TASKS)]
            report.add(f"str {name} json", "ms", peer.name, quantile(times, 0.5))
        with contextlib.suppress(OSError):
            client.send(exit())
    return p50


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not npm.is_there():
        print(f"program: {npm.ABSENT}", file=sys.stderr)
        return 2

    report = Report(f"program: {node_wrapper.PACKAGE}; {options.rounds} rounds", reference=REFERENCE)
    for number in range(options.rounds):
        found = everybody()
        took = {
            one.name: measure(report, one, options.tasks) for one in found[:: 1 if number % 2 == 0 else -1]
        }
        for name in ("hkrunner", "no records"):
            report.add(MORE, "ms", name, took[name] - took[REFERENCE])
    facts = report.facts(BARS, "hkrunner", "no records")
    print(to_json(facts) if options.json else report.text(BARS, "hkrunner", "no records"))
    return 1 if any(bar["holds"] is False for bar in facts["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
