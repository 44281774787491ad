"""Measure large payloads: hkrunner, hkube-python-wrapper and two clients in one process.

    scripts/bench payloads [--rounds 3] [--quick] [--json]

The algorithm returns its input; with `in` it returns the length of its input, and with `out` it makes its
result. `ms` is the time from sending initialize to receiving done, so a payload is
received, decoded, encoded and sent once each. 100 MB are 99,000,000 bytes, because HKube's worker accepts at
most 100,000,000. All clients are connected at the same time, and take turns with each payload. `no records`
is hkrunner --no-state: the other clients write no input and result to disk either.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import peers
import psutil
from driver import Connection, Driver, exit, initialize
from report import Bar, Report, interleaved, to_json

ENTRY = Path(__file__).with_name("echo_algorithm.py")
MB = 1_000_000
SIZES = {
    "1 KB": 1000,
    "10 KB": 10_000,
    "100 KB": 100_000,
    "300 KB": 300_000,
    "1 MB": MB,
    "10 MB": 10 * MB,
    "100 MB": 99 * MB,
}
#: Measured tasks per turn, after a warm-up task.
TASKS = {"1 KB": 200, "10 KB": 100, "100 KB": 40, "300 KB": 20, "1 MB": 9, "10 MB": 5, "100 MB": 2}
RECORDS = "no records"
BARE = ", child without msgspec"
SETTLED_S = 10.0


@dataclass(frozen=True)
class Case:
    """A payload to measure; its bar is a ratio to the wrapper."""

    kind: str
    encoding: str
    size: str
    bar: float | None
    once: bool = False
    direction: str = ""  #: "in": only the input has this size; "out": only the result

    @property
    def figure(self) -> str:
        return f"{self.kind} {self.size} {self.encoding}{self.direction and ' ' + self.direction}"


CASES = [
    Case("str", "json", "1 KB", 0.22),
    Case("str", "json", "10 KB", 0.22),
    Case("str", "json", "100 KB", 0.22),
    Case("str", "json", "300 KB", 0.22),
    Case("str", "json", "1 MB", 0.20),
    Case("str", "json", "10 MB", 0.20),
    Case("str", "json", "100 MB", 0.20),
    *(
        Case("str", "json", size, None, direction=direction)
        for direction in ("in", "out")
        for size in ("1 KB", "10 KB", "100 KB", "300 KB")
    ),
    Case("num", "json", "10 MB", 0.22),
    Case("num", "json", "100 MB", 0.22, once=True),
    Case("rec", "json", "10 MB", 0.20),
    Case("rec", "json", "100 MB", 0.20, once=True),
    *(
        Case("bytes", encoding, size, bar)
        for encoding in ("bson", "msgpack")
        for size, bar in (
            ("1 KB", None),
            ("10 KB", None),
            ("100 KB", None),
            ("300 KB", None),
            ("10 MB", 0.35),
            ("100 MB", 0.30),
        )
    ),
]
GROWTH = "RSS 10 s after 100 MB, above before: all processes"
PARENTS = "RSS 10 s after 100 MB, above before: parent"
PEAK = "PSS right after 100 MB: all processes"
BARS = [
    *(Bar(one.figure, one.bar, is_ratio=True) for one in CASES if one.bar),
    Bar(f"str 1 MB json{BARE}", 0.7, is_ratio=True),
    Bar(f"str 100 MB json{BARE}", 1.0, is_ratio=True),
    Bar(PARENTS, 2.0, is_ratio=False),
]


def payload(case: Case) -> bytes:
    """Return the payload's `initialize` message as a WebSocket frame."""
    if case.direction == "out":
        return initialize([SIZES[case.size], "out"], encoding=case.encoding)
    return initialize([value(case), *([case.direction] if case.direction else [])], encoding=case.encoding)


def value(case: Case) -> object:
    """Return a value with at most, and about, this many bytes once encoded; always the same value."""
    size = SIZES[case.size] - min(1000, SIZES[case.size] // 10)
    chance = random.Random(7)
    if case.kind == "str":
        block = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz 0123456789", k=10_000))
        return (block * (size // len(block) + 1))[:size]
    if case.kind == "bytes":
        return (chance.randbytes(100_000) * (size // 100_000 + 1))[:size]
    make = chance.random if case.kind == "num" else lambda: _record(chance)
    block = [make() for _ in range(5000)]
    text_bytes = len(json.dumps(block, separators=(",", ":")))
    return block * (size // text_bytes) or block[: size * len(block) // text_bytes]


def _record(chance: random.Random) -> dict[str, object]:
    number = chance.randrange(10**6)
    return {
        "id": number,
        "name": f"item {number}",
        "value": chance.random(),
        "valid": number % 3 == 0,
        "tags": ["red", "green", str(number % 17)],
        "at": {"x": number % 640, "y": number % 480},
    }


@contextlib.contextmanager
def connected(everybody: list[peers.Peer], encoding: str) -> Iterator[dict[str, tuple[Connection, int]]]:
    """Start all peers; yield their (connection, pid) by name."""
    with contextlib.ExitStack() as stack:
        clients: dict[str, tuple[Connection, int]] = {}
        for peer in everybody:
            driver = stack.enter_context(Driver())
            process = stack.enter_context(peer.started(driver.port, ENTRY))
            clients[peer.name] = (driver.accept(), process.pid)
        yield clients
        for client, _ in clients.values():
            with contextlib.suppress(OSError):
                client.send(exit(encoding=encoding))


def measure(
    report: Report, everybody: list[peers.Peer], encoding: str, cases: list[Case], rounds: int, how: str = ""
) -> None:
    with connected(everybody, encoding) as clients:
        tiny = initialize(["tiny"], encoding=encoding)
        for client, _ in clients.values():
            client.run(tiny, 30, encoding)
        for case in cases:
            frame, figure = payload(case), case.figure + how
            turns = 1 if case.once else rounds

            def turn(peer: peers.Peer, case: Case = case, frame: bytes = frame, figure: str = figure) -> None:
                client, _ = clients[peer.name]
                count = 1 if case.once else TASKS[case.size]
                if not case.once:
                    client.run(frame, 1, encoding)
                times = client.run(frame, count, encoding)
                each = [a + b for a, b in zip(times.initialized, times.done, strict=True)]
                report.add(figure, "ms", peer.name, statistics.median(each) * 1000)

            interleaved(turns, everybody, turn)
            print(figure, file=sys.stderr)


def measure_memory(report: Report, peer: peers.Peer) -> None:
    """Measure the memory 10 s after one large task."""
    with Driver() as driver, peer.started(driver.port, ENTRY) as process:
        client = driver.accept()
        # Send a large message first: the modules that it imports are not part of the measurement.
        client.run(payload(Case("str", "json", "1 MB", None)), 2)
        time.sleep(SETTLED_S)
        parent, all_before = rss(process.pid)
        frame = payload(Case("str", "json", "100 MB", None))
        client.run(frame, 1)
        pss = sum(one.memory_full_info().pss for one in family(process.pid))
        time.sleep(SETTLED_S)
        parent_after, all_after = rss(process.pid)
        client.send(exit())
    report.add(PEAK, "MB", peer.name, pss / MB)
    report.add(PARENTS, "MB", peer.name, (parent_after - parent) / MB)
    report.add(GROWTH, "MB", peer.name, (all_after - all_before) / MB)


def family(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def rss(pid: int) -> tuple[int, int]:
    """Return the memory of the process itself and of its whole tree."""
    each = [one.memory_info().rss for one in family(pid)]
    return each[0], sum(each)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round, nothing of 100 MB")
    parser.add_argument("--only", choices=["json", "bson", "msgpack", "bare", "memory"], help="one part")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds

    everybody = peers.everybody()
    named = ", ".join(f"{peer.name} {peer.version}" for peer in everybody)
    report = Report(f"payloads: {named}; {rounds} rounds")
    if peers.wrapper() is None:
        report.notes.append(peers.WHY_NO_WRAPPER)
    if peers.fast() is None:
        report.notes.append(peers.WHY_NO_FAST)

    def wanted(part: str) -> bool:
        return options.only in (None, part)

    for encoding in filter(wanted, ("json", "bson", "msgpack")):
        cases = [c for c in CASES if c.encoding == encoding and not (options.quick and c.size == "100 MB")]
        measure(report, peers.everybody(encoding), encoding, cases, rounds)
    # The algorithm's interpreter may lack msgspec; then it uses the json of the standard library.
    bare = [peers.hkrunner_with_bare_child(), *(peer for peer in everybody if peer.name == "wrapper")]
    sizes = ["1 MB"] if options.quick else ["1 MB", "100 MB"]
    cases = [c for c in CASES if c.kind == "str" and not c.direction and c.size in sizes]
    if wanted("bare"):
        measure(report, bare, "json", cases, rounds, BARE)
    if wanted("memory") and not options.quick:
        interleaved(1, [p for p in everybody if p.name != "fast"], lambda peer: measure_memory(report, peer))
    facts = report.facts(BARS, "hkrunner", RECORDS)
    print(to_json(facts) if options.json else report.text(BARS, "hkrunner", RECORDS))
    return 1 if any(bar["holds"] is False for bar in facts["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
