"""Compare hkrunner.Pool with ProcessPoolExecutor, loky and pebble.

    scripts/bench pool [--rounds 5] [--tasks 5000] [--json]

Tiny tasks are all submitted, then awaited; so are those with an argument of 1 MB (random bytes, of which the
length comes back). Recovery is counted from the submission of a task that crashes, in a warm pool of one
worker, to the result of the next task, which is submitted as soon as the failure is known; an executor that
is broken then is made anew, as its user would. A memory limit and a time limit are counted in the same way
where the pool has one; the time limit itself is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from importlib.metadata import version
from typing import Any, Protocol

import hkrunner
import loky
import pebble
import pool_functions as functions
from report import Bar, Report, interleaved, to_json

WORKERS = 2
LARGE_BYTES = 1_000_000
LARGE_TASKS = 100
MEMORY_LIMIT = 256 << 20
TIME_LIMIT_S = 0.2
REFERENCE = "ProcessPoolExecutor"
TINY, LARGE, SEGFAULT = "tiny tasks/s", "1 MB argument", "next result after a segfault"
MEMORY, TIMEOUT = "next result after a memory limit", "next result after a time limit"
BARS = [
    Bar(TINY, 1.5, is_ratio=True, at_least=True),
    Bar(LARGE, 1.5, is_ratio=True),
    Bar(SEGFAULT, 50.0, is_ratio=False),
]


class Submits(Protocol):
    """What all the pools have."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]: ...


class PoolPeer:
    """An implementation of a pool, as it comes."""

    def __init__(self, name: str, make: Callable[[int], contextlib.AbstractContextManager[Submits]]) -> None:
        self.name = name
        self.make = make


class PebblePool:
    """pebble's pool with the method that the others have."""

    def __init__(self, workers: int) -> None:
        self.pool = pebble.ProcessPool(max_workers=workers)

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        future: Future[Any] = self.pool.schedule(function, args=args)
        return future


@contextlib.contextmanager
def pebble_pool(workers: int) -> Iterator[Submits]:
    pool = PebblePool(workers)
    try:
        yield pool
    finally:
        pool.pool.stop()
        pool.pool.join()


@contextlib.contextmanager
def loky_pool(workers: int) -> Iterator[Submits]:
    executor = loky.ProcessPoolExecutor(workers)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, kill_workers=True)


PEERS = [
    PoolPeer("hkrunner", lambda workers: hkrunner.Pool(workers=workers)),
    PoolPeer(REFERENCE, ProcessPoolExecutor),
    PoolPeer("loky", loky_pool),
    PoolPeer("pebble", pebble_pool),
]


def measure_throughput(report: Report, peer: PoolPeer, tasks: int) -> None:
    data = os.urandom(LARGE_BYTES)
    with peer.make(WORKERS) as pool:
        _run_all(pool, functions.plus_one, [1] * 200)  # all workers are warm
        report.add(TINY, "", peer.name, tasks / _run_all(pool, functions.plus_one, range(tasks)))
        _run_all(pool, functions.length, [data] * WORKERS)
        took = _run_all(pool, functions.length, [data] * LARGE_TASKS)
        report.add(LARGE, "ms", peer.name, took / LARGE_TASKS * 1000)


def _run_all(pool: Submits, function: Callable[..., Any], arguments: Any) -> float:
    began = time.perf_counter()
    for future in [pool.submit(function, one) for one in arguments]:
        future.result()
    return time.perf_counter() - began


def measure_recovery(report: Report, peer: PoolPeer) -> None:
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(peer.make(1))
        _warm_up(pool)
        began = time.perf_counter()
        _fail(pool.submit(functions.segfault))
        try:
            pool.submit(functions.plus_one, 1).result()
        except Exception:  # noqa: BLE001 - each library has a class of its own for a broken pool
            pool = stack.enter_context(peer.make(1))
            pool.submit(functions.plus_one, 1).result()
        report.add(SEGFAULT, "ms", peer.name, (time.perf_counter() - began) * 1000)


def measure_limits(report: Report) -> None:
    """Measure the limits of those pools that have them."""
    with hkrunner.Pool(workers=1, mem=MEMORY_LIMIT) as pool:
        _warm_up(pool)
        began = time.perf_counter()
        _fail(pool.submit(functions.use_memory, 4 * MEMORY_LIMIT))
        pool.submit(functions.plus_one, 1).result()
        report.add(MEMORY, "ms", "hkrunner", (time.perf_counter() - began) * 1000)
        _warm_up(pool)
        began = time.perf_counter()
        _fail(pool.schedule([functions.loop], timeout=TIME_LIMIT_S))
        pool.submit(functions.plus_one, 1).result()
        report.add(TIMEOUT, "ms", "hkrunner", (time.perf_counter() - began - TIME_LIMIT_S) * 1000)
    with pebble_pool(1) as other:
        assert isinstance(other, PebblePool)
        _warm_up(other)
        began = time.perf_counter()
        _fail(other.pool.schedule(functions.loop, timeout=TIME_LIMIT_S))
        other.submit(functions.plus_one, 1).result()
        report.add(TIMEOUT, "ms", "pebble", (time.perf_counter() - began - TIME_LIMIT_S) * 1000)


def _warm_up(pool: Submits) -> None:
    """Have the worker warm, and the spare of those that have one."""
    for _ in range(3):
        pool.submit(functions.plus_one, 1).result()
    time.sleep(1)


def _fail(future: Future[Any]) -> None:
    if future.exception() is None:
        raise RuntimeError("the task was to fail")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=5000, help="tiny tasks a round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    named = ", ".join(f"{name} {version(name)}" for name in ("hkrunner", "loky", "pebble"))
    title = f"pool: {named}; {WORKERS} workers, {options.rounds} rounds of {options.tasks} tiny tasks"
    report = Report(title, reference=REFERENCE)
    interleaved(options.rounds, PEERS, lambda peer: measure_throughput(report, peer, options.tasks))
    interleaved(options.rounds, PEERS, functools.partial(measure_recovery, report))
    for _ in range(options.rounds):
        measure_limits(report)
    facts = report.facts(BARS, "hkrunner")
    print(to_json(facts) if options.json else report.text(BARS, "hkrunner"))
    return 1 if any(bar["holds"] is False for bar in facts["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
