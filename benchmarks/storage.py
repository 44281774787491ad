"""Measure tasks with storage v3 in a folder: hkrunner and hkube-python-wrapper.

    scripts/bench storage [--rounds 3] [--quick] [--json]

The input of each task is an object in the storage that nobody has read before, and the algorithm returns it,
so the result is an object of the same size. `ms` is the time from sending initialize to receiving done: the
input is read and decoded, the result encoded and written. Both serve their results to other algorithms, as in
a cluster, and take turns with each value. The folder is in memory (/dev/shm) where there is one: no disk is
measured.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import payloads
import peers
from driver import TASK, Connection, Driver, exit, start, wire
from report import Bar, Report, interleaved, to_json

ENTRY = Path(__file__).with_name("echo_algorithm.py")
ENCODING = "bson"  # of the messages: the wrapper's own default
SIZES = {"1 KB": 1000, "100 KB": 100_000, "10 MB": 10_000_000}
#: Measured tasks per turn, after a warm-up task.
TASKS = {"1 KB": 100, "100 KB": 30, "10 MB": 5}
KINDS = {"rec": "records", "num": "numbers", "bytes": "bytes"}
BARS_OF_SIZES = {"1 KB": 0.35, "10 MB": 0.5}
CASES = [payloads.Case(kind, "msgpack", size, None) for size in SIZES for kind in KINDS]
BARS = [
    Bar(f"{KINDS[kind]} {size}", most, is_ratio=True)
    for size, most in BARS_OF_SIZES.items()
    for kind in ("rec", "num", "bytes")
]
JOB = "4ispixlx3ka6"
HEADERS = {False: b"\x01\x08\x02\x03\0\0HK", True: b"\x01\x08\x01\x03\0\0HK"}


@dataclass
class Objects:
    """The folder of the storage."""

    folder: Path

    def write(self, value: object) -> Path:
        """Write a value; return its file."""
        is_raw = isinstance(value, bytes)
        file = self.folder / "value"
        file.write_bytes(
            HEADERS[is_raw] + (value if isinstance(value, bytes) else msgspec.msgpack.encode(value))
        )
        return file

    def link(self, file: Path, name: str) -> str:
        """Give the object another path, which nobody has read; return the path."""
        path = f"local-hkube/{JOB}/{name}"
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(file, self.folder / path)
        return path


def initialize(path: str, task: str) -> bytes:
    """Return the message that begins a task with this object as its only argument."""
    data: dict[str, Any] = {
        **TASK,
        "jobId": JOB,
        "taskId": task,
        "input": ["$$aaaaaaaa"],
        "flatInput": {"0": "$$aaaaaaaa"},
        "storage": {"aaaaaaaa": {"storageInfo": {"path": path}, "metadata": {}, "path": ""}},
    }
    return wire({"command": "initialize", "data": data}, ENCODING)


def run(client: Connection, frames: list[bytes]) -> list[float]:
    """Run these tasks; return the seconds of each."""
    times, second = [], start(ENCODING)
    for frame in frames:
        began = time.perf_counter()
        client.send(frame)
        client.expect(b"initialized")
        client.send(second)
        client.expect(b"storing")
        client.expect(b"done")
        times.append(time.perf_counter() - began)
    return times


@contextlib.contextmanager
def connected(everybody: list[peers.Peer], objects: Objects) -> Iterator[dict[str, Connection]]:
    """Start the peers with storage v3; yield their connections by name."""
    with contextlib.ExitStack() as stack:
        clients = {}
        for number, peer in enumerate(everybody):
            driver = stack.enter_context(Driver())
            variables = {
                **peer.variables,
                "STORAGE_PROTOCOL": "v3",
                "STORAGE_ENCODING": "msgpack",
                "BASE_FS_ADAPTER_DIRECTORY": str(objects.folder),
                "POD_IP": "127.0.0.1",
                "DISCOVERY_PORT": str(19020 + 10 * number),
            }
            stack.enter_context(replace(peer, variables=variables).started(driver.port, ENTRY))
            clients[peer.name] = driver.accept()
        yield clients
        for client in clients.values():
            with contextlib.suppress(OSError):
                client.send(exit(encoding=ENCODING))


def measure(report: Report, everybody: list[peers.Peer], objects: Objects, rounds: int) -> None:
    numbers = itertools.count()
    with connected(everybody, objects) as clients:
        for case in CASES:
            file, figure = objects.write(payloads.value(case)), f"{KINDS[case.kind]} {case.size}"

            def turn(
                peer: peers.Peer, case: payloads.Case = case, file: Path = file, figure: str = figure
            ) -> None:
                names = [f"task{next(numbers)}" for _ in range(TASKS[case.size] + 1)]
                frames = [initialize(objects.link(file, f"{name}-input"), name) for name in names]
                times = run(clients[peer.name], frames)[1:]
                for name in names:
                    for end in ("", "-input"):
                        (objects.folder / "local-hkube" / JOB / f"{name}{end}").unlink()
                report.add(figure, "ms", peer.name, statistics.median(times) * 1000)

            interleaved(rounds, everybody, turn)
            file.unlink()
            print(figure, file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    found = [
        peers.hkrunner(encoding=ENCODING),
        peers.hkrunner_without_records(ENCODING),
        peers.wrapper(ENCODING),
    ]
    everybody = [peer for peer in found if peer is not None]
    named = ", ".join(f"{peer.name} {peer.version}" for peer in everybody)
    report = Report(f"storage: {named}; {rounds} rounds")
    if peers.wrapper() is None:
        report.notes.append(peers.WHY_NO_WRAPPER)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="hkrunner-bench-", dir=memory) as folder:
        measure(report, everybody, Objects(Path(folder)), rounds)
    facts = report.facts(BARS, "hkrunner", payloads.RECORDS)
    print(to_json(facts) if options.json else report.text(BARS, "hkrunner", payloads.RECORDS))
    return 1 if any(bar["holds"] is False for bar in facts["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
