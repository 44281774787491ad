"""Measure tiny tasks, and tasks that crash, hang or lose the connection: hkrunner and hkube-python-wrapper.

    scripts/bench protocol [--rounds 3] [--quick] [--json]

All clients use the same scripted worker and take turns. `no records` is hkrunner --no-state: the others write
no records either. `floor` and `fast` run the algorithm in the process of the connection; they do not stop,
isolate or reconnect, so the second half leaves them out. CPU is the sum of all processes of a client. With `1
core`, the worker and the client share a core. In the second half the wrapper has 5 s; what it has not done by
then has no figure.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import peers
import psutil
from driver import START, Connection, Driver, exit, initialize, stop
from report import Bar, Report, interleaved, quantile, to_json

HELLO = Path(__file__).with_name("hello_algorithm.py")
BAD = Path(__file__).with_name("misbehaving_algorithm.py")
MB = 1_000_000
WARM_UP = 200
GRACE_S = 1.0
PATIENCE_S = 5.0
GIL_S = 10.0
CRASHES = ("exits", "exits_at_once", "aborts", "segfaults", "is_killed", "is_terminated", "divides_by_zero")
#: Text that the error message must contain, by kind of crash.
NAMED = (b"3", b"3", b"SIGABRT", b"SIGSEGV", b"SIGKILL", b"SIGTERM", b"SIGFPE")

JSON_P50 = "tiny json: start->done p50"
BARS = [
    Bar(JSON_P50, 0.20, is_ratio=True, stretch=0.12),
    Bar("tiny json: init->initialized p50", 0.20, is_ratio=True),
    Bar("tiny json: start->done p99", 0.20, is_ratio=True),
    Bar("tiny json: start->done max", 0.12, is_ratio=True, stretch=0.10),
    Bar("tiny json: tasks/s", 5.0, is_ratio=True, at_least=True, stretch=8.0),
    Bar("tiny json: CPU per task", 0.18, is_ratio=True, stretch=0.15),
    Bar("tiny bson: start->done p50", 0.20, is_ratio=True, stretch=0.12),
    Bar("tiny json, 1 core: start->done p50", 0.25, is_ratio=True, stretch=0.16),
    Bar("tiny json, 1 core: tasks/s", 6.0, is_ratio=True, at_least=True, stretch=6.5),
    Bar("connected", 0.65, is_ratio=True, stretch=0.5),
    Bar("first done", 0.65, is_ratio=True, stretch=0.5),
    Bar("idle: PSS", 1.0, is_ratio=True, stretch=0.75),
    Bar("idle: CPU", 0.5, is_ratio=False),
    Bar("idle: wake-ups", 0.0, is_ratio=False),
    Bar("many tiny: threads more", 0.0, is_ratio=False, always=True),
    Bar("many tiny: descriptors more", 0.0, is_ratio=False, always=True),
    Bar("many tiny: RSS more", 2.0, is_ratio=False, always=True),
    Bar("many tiny: second half to the first", 1.05, is_ratio=False),
    Bar("stop, obeyed", 5.0, is_ratio=False),
    Bar("stop, hung", GRACE_S * 1000 + 20, is_ratio=False),
    Bar("stop, GIL held", GRACE_S * 1000 + 20, is_ratio=False),
    Bar("stop, hung: next task", 100.0, is_ratio=False),
    Bar("stop, GIL held: next task", 100.0, is_ratio=False),
    *(Bar(f"{kind}: errorMessage", 50.0, is_ratio=False, stretch=15.0) for kind in CRASHES),
    *(
        Bar(f"{kind}: told and next task", 1.0, is_ratio=False, at_least=True, always=True)
        for kind in CRASHES
    ),
    Bar("GIL held: pings answered", 100.0, is_ratio=False, at_least=True, always=True),
    Bar("GIL held: slowest pong", 100.0, is_ratio=False, stretch=20.0, always=True),
    Bar("GIL held: longest time without alive", 5500.0, is_ratio=False, always=True),
    Bar("dropped: back", 20.0, is_ratio=False),
    Bar("worker replaced at the end: hears an old answer", 0.0, is_ratio=False, always=True),
    Bar("result of 101 MB: told why", 1.0, is_ratio=False, at_least=True, always=True),
    Bar("exit: code kept", 1.0, is_ratio=False, at_least=True, always=True),
    Bar("exit: gone", 50.0, is_ratio=False),
    Bar("exit: processes left", 0.0, is_ratio=False, always=True),
]


# --- resources of a client


def family(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def cpu_s(pid: int) -> float:
    """Return the CPU time of the client's processes, including threads that have ended."""
    return sum(time.clock_gettime_ns((~one.pid << 3) | 2) for one in family(pid)) / 1e9


def wake_ups(pid: int) -> int:
    """Return the number of voluntary context switches of the client's threads."""
    total = 0
    for one in family(pid):
        for thread in Path(f"/proc/{one.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                status = (thread / "status").read_text()
                total += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return total


def held(pid: int) -> tuple[int, int, int]:
    """Return (threads, descriptors, bytes of RSS) of all processes of the client."""
    each = [(one.num_threads(), one.num_fds(), one.memory_info().rss) for one in family(pid)]
    threads, descriptors, resident = (sum(column) for column in zip(*each, strict=True))
    return threads, descriptors, resident


# --- tiny tasks


@contextlib.contextmanager
def serving(peer: peers.Peer, entry: Path, encoding: str = "json") -> Iterator[tuple[Connection, int]]:
    """Start the client; yield (connection, pid)."""
    with Driver() as driver, peer.started(driver.port, entry) as process:
        client = driver.accept()
        yield client, process.pid
        with contextlib.suppress(OSError):
            client.send(exit(encoding=encoding))


def tiny(report: Report, peer: peers.Peer, encoding: str, count: int, *, where: str = "") -> None:
    task = initialize(["world"], encoding=encoding)
    with serving(peer, HELLO, encoding) as (client, pid):
        client.run(task, WARM_UP, encoding)
        used = cpu_s(pid)
        times = client.run(task, count, encoding)
        used = cpu_s(pid) - used
    name = f"tiny {encoding}{where}"
    report.add(f"{name}: init->initialized p50", "ms", peer.name, quantile(times.initialized, 0.5) * 1000)
    for share, called in ((0.5, "p50"), (0.99, "p99"), (1.0, "max")):
        report.add(f"{name}: start->done {called}", "ms", peer.name, quantile(times.done, share) * 1000)
    report.add(f"{name}: tasks/s", "", peer.name, count / times.total)
    report.add(f"{name}: CPU per task", "ms", peer.name, used / count * 1000)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def tiny_on_one_core(report: Report, peer: peers.Peer, count: int) -> None:
    with one_core():
        tiny(report, peer, "json", count, where=", 1 core")


def begin(report: Report, peer: peers.Peer) -> None:
    """Measure the time from the start of the command to the first answer."""
    with Driver() as driver:
        began = time.perf_counter()
        with peer.started(driver.port, HELLO):
            client = driver.accept()
            report.add("connected", "ms", peer.name, (time.perf_counter() - began) * 1000)
            client.run(initialize(["world"]), 1)
            report.add("first done", "ms", peer.name, (time.perf_counter() - began) * 1000)
            client.send(exit())


def idle(report: Report, peer: peers.Peer, seconds: float) -> None:
    with serving(peer, HELLO) as (client, pid):
        client.run(initialize(["world"]), 20)
        time.sleep(6.0)  # until cached memory and the wrapper's threads of the last tasks are released
        pss = sum(one.memory_full_info().pss for one in family(pid))
        woken, used = wake_ups(pid), cpu_s(pid)
        time.sleep(seconds)
        woken, used = wake_ups(pid) - woken, cpu_s(pid) - used
        report.add("idle: processes", "", peer.name, len(family(pid)))
    report.add("idle: PSS", "MB", peer.name, pss / MB)
    report.add("idle: CPU", "%", peer.name, used / seconds * 100)
    report.add("idle: wake-ups", "/s", peer.name, woken / seconds)


def many(report: Report, peer: peers.Peer, count: int) -> None:
    task = initialize(["world"])
    with serving(peer, HELLO) as (client, pid):
        client.run(task, WARM_UP)
        before = held(pid)
        first, second = (client.run(task, count // 2).total for _ in range(2))
        after = held(pid)
    more = [b - a for a, b in zip(before, after, strict=True)]
    report.add("many tiny: threads more", "", peer.name, more[0])
    report.add("many tiny: descriptors more", "", peer.name, more[1])
    report.add("many tiny: RSS more", "MB", peer.name, more[2] / MB)
    report.add("many tiny: second half to the first", "", peer.name, second / first)


# --- stops, crashes, lost connections


def begin_task(client: Connection, *input: object) -> None:
    client.send(initialize(list(input)))
    client.expect(b"initialized")
    client.send(START)


def next_task(client: Connection) -> float:
    """Run a task; return its time from initialize to done, in ms."""
    began = time.perf_counter()
    begin_task(client, "nothing")
    client.expect(b"done")
    return (time.perf_counter() - began) * 1000


def stopping(report: Report, peer: peers.Peer) -> None:
    for name, what in (("obeyed", "waits_for_stop"), ("hung", "hangs"), ("GIL held", "holds_the_gil")):
        with serving(peer, BAD) as (client, _), contextlib.suppress(OSError, RuntimeError):
            client.deadline(PATIENCE_S)
            next_task(client)
            begin_task(client, what)
            time.sleep(0.2)
            began = time.perf_counter()
            client.send(stop())
            _until(client, b"stopped")
            report.add(f"stop, {name}", "ms", peer.name, (time.perf_counter() - began) * 1000)
            report.add(f"stop, {name}: next task", "ms", peer.name, next_task(client))


def _until(client: Connection, command: bytes) -> bytes:
    """Wait for the message with this command; ignore other messages."""
    end = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < end:
        head, _ = client.receive()
        if b'"' + command + b'"' in head:
            return head
    raise TimeoutError


def crashing(report: Report, peer: peers.Peer) -> None:
    for kind, named in zip(CRASHES, NAMED, strict=True):
        told = 0.0
        with serving(peer, BAD) as (client, _), contextlib.suppress(OSError, RuntimeError):
            client.deadline(PATIENCE_S)
            client.head = 2000
            next_task(client)
            began = time.perf_counter()
            begin_task(client, kind)
            head = _until(client, b"errorMessage")
            report.add(f"{kind}: errorMessage", "ms", peer.name, (time.perf_counter() - began) * 1000)
            report.add(f"{kind}: next task", "ms", peer.name, next_task(client))
            told = float(named in head)
        report.add(f"{kind}: told and next task", "", peer.name, told)


def holding(report: Report, peer: peers.Peer, seconds: float) -> None:
    """Measure the pongs while a C call holds Python's lock and the worker pings four times a second."""
    with serving(peer, BAD) as (client, _):
        begin_task(client, "nothing")
        client.expect(b"done")
        client.seen = []
        began = time.perf_counter()
        begin_task(client, "holds_the_gil", int(seconds))
        client.deadline(0.25)
        sent: dict[bytes, float] = {}
        while time.perf_counter() - began < seconds - 0.5:
            payload = str(len(sent)).encode()
            sent[payload] = time.perf_counter()
            client.ping(payload)
            with contextlib.suppress(TimeoutError):
                while time.perf_counter() - sent[payload] < 0.25:
                    client.receive()
        client.deadline(PATIENCE_S + seconds)
        with contextlib.suppress(OSError, RuntimeError):
            client.expect(b"done")
        ended = time.perf_counter()
        signs = [at for head, at in client.seen if b"alive" in head and at < ended]
    waits = [client.pongs.get(key, ended) - at for key, at in sent.items()]
    at_once = sum(wait <= 0.1 for wait in waits)
    report.add("GIL held: pings answered", "% in 100 ms", peer.name, at_once / len(sent) * 100)
    report.add("GIL held: slowest pong", "ms", peer.name, max(waits) * 1000)
    gaps = [b - a for a, b in zip([began, *signs], [*signs, ended], strict=True)]
    report.add("GIL held: longest time without alive", "ms", peer.name, max(gaps) * 1000)


def dropping(report: Report, peer: peers.Peer) -> None:
    """Measure the reconnect of an idle client, and one to another worker while a task ends."""
    with Driver() as driver, peer.started(driver.port, BAD):
        client = driver.accept()
        next_task(client)
        for _ in range(5):
            client.close()
            began = time.perf_counter()
            client = driver.accept()
            report.add("dropped: back", "ms", peer.name, (time.perf_counter() - began) * 1000)
            next_task(client)
        begin_task(client, "sleeps", 0.7)
        time.sleep(0.1)
        port = driver.port
        driver.close()
        client.close()
        time.sleep(1.2)  # until the task has ended
        heard = 0.0
        with Driver(port) as again:
            began = time.perf_counter()
            client = again.accept()
            report.add(
                "worker replaced at the end: back", "ms", peer.name, (time.perf_counter() - began) * 1000
            )
            client.deadline(PATIENCE_S)
            with contextlib.suppress(OSError, RuntimeError):
                _until(client, b"done")
                heard = 1.0
            with contextlib.suppress(OSError):
                client.send(exit())
    report.add("worker replaced at the end: hears an old answer", "", peer.name, heard)


def too_large(report: Report, peer: peers.Peer) -> None:
    told = 0.0
    with serving(peer, BAD) as (client, _), contextlib.suppress(OSError, RuntimeError):
        client.deadline(PATIENCE_S)
        client.head = 500
        begin_task(client, "returns", 101_000_000)
        head, size = client.receive()
        while b"started" in head or b"alive" in head:
            head, size = client.receive()
        told = float(b"errorMessage" in head and b"100,000,000" in head and size < MB)
        next_task(client)
    report.add("result of 101 MB: told why", "", peer.name, told)


def leaving(report: Report, peer: peers.Peer) -> None:
    with Driver() as driver, peer.started(driver.port, BAD) as process:
        client = driver.accept()
        next_task(client)
        everyone = family(process.pid)
        began = time.perf_counter()
        client.send(exit(5))
        process.wait()
        report.add("exit: gone", "ms", peer.name, (time.perf_counter() - began) * 1000)
        left = sum(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in everyone[1:])
        report.add("exit: code kept", "", peer.name, float(process.returncode == 5))
        report.add("exit: processes left", "", peer.name, left)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=1500, help="measured tasks a round")
    parser.add_argument("--quick", action="store_true", help="one round, fewer tasks")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds, tasks, total = (1, 300, 1000) if options.quick else (options.rounds, options.tasks, 10_000)

    all_peers = {encoding: peers.everybody(encoding) for encoding in ("json", "bson")}
    everybody = all_peers["json"]
    named = ", ".join(f"{peer.name} {peer.version}" for peer in everybody)
    report = Report(f"protocol: {named}; {rounds} rounds of {tasks} tiny tasks, {total} for `many`")
    if peers.wrapper() is None:
        report.notes.append(peers.WHY_NO_WRAPPER)
    if peers.fast() is None:
        report.notes.append(peers.WHY_NO_FAST)
    isolating = [peer for peer in everybody if peer.name not in ("floor", "fast")]
    both = [peer for peer in isolating if peer.name != "no records"]
    ours = peers.hkrunner("--grace", f"{GRACE_S:g}")
    troubled = [ours, *(peer for peer in both if peer.name != ours.name)]

    def step(name: str, count: int, who: list[peers.Peer], measure: Callable[[peers.Peer], None]) -> None:
        print(name, file=sys.stderr)
        interleaved(count, who, measure)

    step("tiny json", rounds, everybody, lambda peer: tiny(report, peer, "json", tasks))
    step("tiny bson", rounds, all_peers["bson"], lambda peer: tiny(report, peer, "bson", tasks))
    step("one core", rounds, everybody, lambda peer: tiny_on_one_core(report, peer, tasks))
    step("begin", rounds * 3, everybody, lambda peer: begin(report, peer))
    step("idle", 1, everybody, lambda peer: idle(report, peer, 5.0))
    step("stop", 1 if options.quick else 2, troubled, lambda peer: stopping(report, peer))
    step("crashes", 1 if options.quick else 3, [ours], lambda peer: crashing(report, peer))
    step("crashes", 1, troubled[1:], lambda peer: crashing(report, peer))
    step("GIL held", 1, both, lambda peer: holding(report, peer, GIL_S))
    step("drops", 1, both, lambda peer: dropping(report, peer))
    step("too large", 1, both, lambda peer: too_large(report, peer))
    step("exit", rounds, both, lambda peer: leaving(report, peer))
    # At the end, because the wrapper's threads keep the machine busy for a while.
    step("many", 1, isolating, lambda peer: many(report, peer, total))

    facts = report.facts(BARS, ours.name, "no records")
    print(to_json(facts) if options.json else report.text(BARS, ours.name, "no records"))
    return 1 if any(bar["holds"] is False for bar in facts["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
