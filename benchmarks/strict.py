"""Measure what --sandbox strict costs, compared with --sandbox basic.

    scripts/bench strict [--rounds 5] [--tasks 3000] [--level full] [--json]

Each round measures both, so that they have the same noise, and takes the fastest of several repetitions. The
start is that of a local run of one task, to its end; its CPU time depends less on other programs. With a
spare process: from the moment at which a crash is known to the next result. A connection through
`--net HOST:PORT` is compared with a direct one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hkrunner
from report import Bar, Report, interleaved, to_json

HKRUNNER = str(Path(sysconfig.get_path("scripts"), "hkrunner"))
CODE = str(Path(__file__).with_name("strict_algorithm.py"))
BASIC, STRICT = "basic", "strict"
START, START_MORE = "start of a run", "start: strict over basic"
CPU, CPU_MORE = "CPU of a run", "CPU of a run: strict over basic"
CRASH = "a crash is known"
SPARE, SPARE_MORE = "next result, with a spare", "with a spare: strict over basic"
TASK, PINHOLE, TURN = "tiny task", "connection", "round trip"
BYTES, TURNS = 1 << 30, 1000
#: Repetitions in each round. Another program on the machine rarely disturbs all of them.
REPEATED = 5
BARS = [
    Bar(START_MORE, 15.0, is_ratio=False),
    Bar(SPARE_MORE, 1.0, is_ratio=False),
    Bar(TASK, 1.03, is_ratio=True),
    Bar(PINHOLE, 0.8, is_ratio=False, at_least=True),
]


class Costs:
    """Measures one round of each figure."""

    def __init__(self, report: Report, folder: str, level: str, tasks: int) -> None:
        self._report = report
        self._folder = folder
        self._strict = {"sandbox": "strict", "sandbox_level": level}
        self._tasks = tasks
        self._last: dict[str, dict[str, float]] = {START: {}, CPU: {}, SPARE: {}}

    def measure(self, peer: str) -> None:
        starts = [self._start_ms(peer) for _ in range(REPEATED)]
        self._difference(START, START_MORE, peer, min(wall_ms for wall_ms, _ in starts))
        self._difference(CPU, CPU_MORE, peer, min(cpu_ms for _, cpu_ms in starts))
        self._measure_pool(peer)
        with echo_server() as port:
            found = [self._connection(peer, port) for _ in range(REPEATED)]
        self._report.add(PINHOLE, "GB/s", peer, max(one["gb_per_s"] for one in found))
        self._report.add(TURN, "us", peer, min(one["rtt_us"] for one in found))

    def _difference(self, figure: str, more: str, peer: str, value: float) -> None:
        """Add the value, and once both peers have one, how much more strict takes."""
        self._report.add(figure, "ms", peer, value)
        last = self._last[figure]
        last[peer] = value
        if len(last) == 2:
            self._report.add(more, "ms", STRICT, last[STRICT] - last[BASIC])
            last.clear()

    def _words(self, peer: str) -> list[str]:
        if peer == BASIC:
            return []
        return ["--sandbox", "strict", "--sandbox-level", self._strict["sandbox_level"]]

    def _start_ms(self, peer: str) -> tuple[float, float]:
        """Return the time and the CPU time of a run with one task."""
        began, cpu_began = time.perf_counter(), _cpu_of_children()
        self._run([*self._words(peer), "-i", "1"])
        return (time.perf_counter() - began) * 1000, (_cpu_of_children() - cpu_began) * 1000

    def _run(self, words: list[str]) -> Any:
        command = [HKRUNNER, CODE, "--no-state", *words]
        ended = subprocess.run(command, cwd=self._folder, capture_output=True, check=True)
        return json.loads(ended.stdout)

    def _measure_pool(self, peer: str) -> None:
        options: dict[str, Any] = self._strict if peer == STRICT else {}
        with hkrunner.Pool(CODE, workers=1, records=False, **options) as pool:
            crashes = [self._crash_ms(pool) for _ in range(REPEATED)]
            self._report.add(CRASH, "ms", peer, min(known_ms for known_ms, _ in crashes))
            self._difference(SPARE, SPARE_MORE, peer, min(next_ms for _, next_ms in crashes))
            self._report.add(TASK, "us", peer, min(self._task_us(pool) for _ in range(REPEATED)))

    def _crash_ms(self, pool: hkrunner.Pool[Any, Any]) -> tuple[float, float]:
        """Return the time until a crash is known, and from then on to the next result."""
        list(pool.map(range(300)))
        time.sleep(0.5)  # the spare has loaded the code
        began = time.perf_counter()
        pool.submit("crash").exception()
        known = time.perf_counter()
        pool.submit(1).result()
        return (known - began) * 1000, (time.perf_counter() - known) * 1000

    def _task_us(self, pool: hkrunner.Pool[Any, Any]) -> float:
        began = time.perf_counter()
        list(pool.map(range(self._tasks)))
        return (time.perf_counter() - began) / self._tasks * 1e6

    def _connection(self, peer: str, port: int) -> Any:
        order = {"port": port, "bytes": BYTES, "turns": TURNS}
        # Without a network namespace the connection is a direct one.
        opened = ["--net", f"localhost:{port}"] if peer == STRICT else []
        return self._run([*self._words(peer), *opened, "-i", json.dumps(order)])


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    """Answer single bytes, and take in everything that is larger."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            buffer = bytearray(1 << 20)
            for _ in range(REPEATED):
                with server.accept()[0] as one:
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while count := one.recv_into(buffer):
                        if count == 1:
                            one.sendall(b"x")

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=3000)
    parser.add_argument("--level", default="full")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    report = Report(f"strict: level {options.level}, {options.rounds} rounds", reference=BASIC)
    with tempfile.TemporaryDirectory(prefix="hkrunner-bench-") as folder:
        costs = Costs(report, folder, options.level, options.tasks)
        interleaved(options.rounds, [BASIC, STRICT], costs.measure)
    facts = report.facts(BARS, STRICT)
    print(to_json(facts) if options.json else report.text(BARS, STRICT))
    return 1 if any(bar["holds"] is False for bar in facts["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
