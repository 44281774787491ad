"""Measure a stream of two nodes: messages a second, and how long one is on its way; beside HKube's wrapper.

    scripts/bench streaming [--rounds 5] [--quick] [--json]

Both nodes of a stream are served by the same program: hkrunner, or HKube's wrapper for Python. They take
turns in each round. The benchmark is the worker of both nodes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import peers
from driver import EXIT, START, TASK, Connection, Driver, json_frame
from peers import Peer
from report import Bar, Report, interleaved, to_json
from support.ports import free_port

ENTRY = Path(__file__).with_name("stream_algorithm.py")
FLOW = [{"source": "A", "next": ["B"]}]
DEADLINE_S = 120.0
BARS = [
    Bar("1 KB messages", 5.0, is_ratio=True, at_least=True),
    Bar("1 KB on its way, p50", 0.3, is_ratio=True),
    Bar("1 MB messages", 2.0, is_ratio=True, at_least=True),
]


def streaming(peer: Peer, port: int, folder: str) -> Peer:
    """Return the peer as a node whose next nodes connect to this port."""
    variables = {
        **peer.variables,
        "STORAGE_PROTOCOL": "v3",
        "STREAMING_DISCOVERY_PORT": str(port),
        "DISCOVERY_PORT": str(free_port()),
        "BASE_FS_ADAPTER_DIRECTORY": folder,
        "PYTHONWARNINGS": "ignore",
    }
    return replace(peer, variables=variables)


def initialize(client: Connection, node: str, input: list[Any]) -> None:
    task = {
        **TASK,
        "kind": "stream",
        "stateType": "stateful",
        "nodeName": node,
        "input": input,
        "flatInput": {},
        "parents": ["A"] if node == "B" else [],
        "childs": ["B"] if node == "A" else [],
        "parsedFlow": {"f": FLOW},
        "defaultFlow": "f",
    }
    client.send(json_frame({"command": "initialize", "data": task}))
    wait_for(client, b"initialized")
    client.send(START)


def wait_for(client: Connection, command: bytes) -> None:
    while b'"%b"' % command not in client.receive()[0]:
        pass


def measure(peer: Peer, size: int, count: int, every_s: float) -> dict[str, float]:
    """Return what the receiving node has measured."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        file = Path(folder, "measured")
        clients = []
        ports = {"A": free_port(), "B": free_port()}
        for node, port in ports.items():
            driver = stack.enter_context(Driver())
            stack.enter_context(streaming(peer, port, folder).started(driver.port, ENTRY))
            client = driver.accept()
            stack.callback(client.send, EXIT)
            initialize(client, node, ["sends" if node == "A" else "takes", size, count, every_s, str(file)])
            clients.append(client)
        parent = {"nodeName": "A", "address": {"host": "127.0.0.1", "port": str(ports["A"])}, "type": "Add"}
        clients[1].send(json_frame({"command": "serviceDiscoveryUpdate", "data": [parent]}))
        end = time.monotonic() + DEADLINE_S
        while not file.exists():
            if time.monotonic() > end:
                raise TimeoutError(f"{peer.name} has not received {count} messages in {DEADLINE_S:g} s")
            time.sleep(0.01)
        measured: dict[str, float] = json.loads(file.read_text())
        return measured


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round, fewer messages")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds, share = (1, 0.2) if options.quick else (options.rounds, 1.0)
    wrapper = peers.wrapper()
    there = [peer for peer in (peers.hkrunner_without_records(), wrapper) if peer is not None]
    report = Report(f"A >> B, {rounds} rounds")
    if wrapper is None:
        report.notes.append(peers.WHY_NO_WRAPPER)

    def one_round(peer: Peer) -> None:
        many = 5 if peer.name != report.reference else 1
        report.add(
            "1 KB messages", "/s", peer.name, measure(peer, 1000, int(10_000 * share) * many, 0.0)["rate"]
        )
        report.add(
            "1 KB on its way, p50", "ms", peer.name, measure(peer, 1000, int(200 * share), 0.02)["p50_ms"]
        )
        report.add("1 MB messages", "/s", peer.name, measure(peer, 1_000_000, int(500 * share), 0.0)["rate"])

    interleaved(rounds, there, one_round)
    names = [peer.name for peer in there if peer.name != report.reference]
    facts = report.facts(BARS, *names)
    print(to_json(facts) if options.json else report.text(BARS, *names))
    return 1 if any(bar["holds"] is False for bar in facts["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
