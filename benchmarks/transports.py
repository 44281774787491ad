"""Measure a tiny task over each transport to the worker: a plain WebSocket, and socket.io 2.

    scripts/bench transports [--rounds 5] [--tasks 2000] [--json]

The same scripted worker hands out the same tasks, in turns. connected and first done count from the start of
the command.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import peers
from driver import EXIT, START, TEXT, Connection, Driver, frame, initialize
from report import Bar, Report, interleaved, quantile, to_json

ENTRY = Path(__file__).with_name("hello_algorithm.py")
REFERENCE = "ws"
WARM_UP = 500
GREETING = b"".join(
    frame(TEXT, packet)
    for packet in (b'0{"sid":"a","upgrades":[],"pingInterval":60000,"pingTimeout":30000}', b"40")
)
P50 = "tiny json: start->done p50"
BARS = [Bar(P50, 1.1, is_ratio=True), Bar("connected", 1.1, is_ratio=True)]


def event(message: bytes) -> bytes:
    """Return a frame of the driver's with its message in an event of socket.io."""
    payload = message[{126: 4, 127: 10}.get(message[1], 2) :]
    return frame(TEXT, b'42["%b",%b]' % (json.loads(payload)["command"].encode(), payload))


def accept(driver: Driver, peer: peers.Peer) -> Connection:
    client = driver.accept()
    if peer.name != REFERENCE:
        client.send(GREETING)
    return client


def measure(report: Report, peer: peers.Peer, count: int) -> None:
    """Measure the start of the peer, and its time for a task once it is warm."""
    as_sent: Callable[[bytes], bytes] = bytes if peer.name == REFERENCE else event
    first, second = as_sent(initialize(["world"])), as_sent(START)
    waits: list[float] = []
    with Driver() as driver:
        began = time.perf_counter()
        with peer.started(driver.port, ENTRY):
            client = accept(driver, peer)
            report.add("connected", "ms", peer.name, (time.perf_counter() - began) * 1000)
            for number in range(WARM_UP + count):
                client.send(first)
                client.expect(b"initialized")
                sent = time.perf_counter()
                client.send(second)
                client.expect(b"done")
                done = time.perf_counter()
                if number == 0:
                    report.add("first done", "ms", peer.name, (done - began) * 1000)
                if number >= WARM_UP:
                    waits.append((done - sent) * 1000)
            client.send(as_sent(EXIT))
    report.add(P50, "ms", peer.name, quantile(waits, 0.5))
    report.add("tiny json: start->done p99", "ms", peer.name, quantile(waits, 0.99))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    everybody = [
        peers.hkrunner("--transport", "socketio", name="socketio"),
        peers.hkrunner(name=REFERENCE),
    ]
    title = f"transports: hkrunner {everybody[0].version}; {options.rounds} rounds of {options.tasks} tasks"
    report = Report(title, reference=REFERENCE)
    interleaved(options.rounds, everybody, lambda peer: measure(report, peer, options.tasks))
    facts = report.facts(BARS, "socketio")
    print(to_json(facts) if options.json else report.text(BARS, "socketio"))
    return 1 if any(bar["holds"] is False for bar in facts["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
