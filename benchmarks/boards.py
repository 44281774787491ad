"""How fast boards are, what they weigh, and whether anything of them is left: `python benchmarks/boards.py`.

hkrunner's boards and `python -m tensorboard.main` take turns on the same recorded tasks, round by round, and
both are looked at the same way from outside: listening is the first page served, ready the first list of all
tasks that has their curves. With TensorFlow installed beside TensorBoard, plain TensorBoard imports it and
hkrunner's boards do not: run this in such an environment for that figure. `--quick` is for a look in between,
`--many` adds ten thousand tasks.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from hkrunner.boards.manager import BoardManager
from hkrunner.boards.runs.event_files import EventWriter
from hkrunner.boards.runs.store import Store
from hkrunner.boards.runs.task_ids import TaskIds
from hkrunner.boards.targets import all_target, node_target

TAGS, STEPS = 5, 200
STEPS_OF_MANY = 20  # of more than a thousand tasks
NEWEST = 500  # tasks that a board is to show at once, however many there are
READY_S = {1000: 1.0, 10_000: 3.0}  # bars for the time until all tasks are listed, by their number
DEADLINE_S = 300.0
WORST_BEFORE = "no later than plain TensorBoard"


@dataclass(frozen=True)
class BoardStart:
    """One start of a board, in seconds and bytes."""

    listening_s: float
    newest_s: float
    ready_s: float
    pss_bytes: int


def make_tasks(root: Path, count: int) -> None:
    """Record tasks as hkrunner does, each with another input: boards name them and show their outcomes."""
    store = Store(root)
    began = time.time() - 3600
    steps = STEPS if count <= 1000 else STEPS_OF_MANY
    for number in range(count):
        at_s = began + number / 10
        ids = TaskIds(f"t{number + 1}", f"job{number // 10}", "train", "local")
        record = store.open(ids, entry="train.py", started_at=at_s)
        rate = 1 / (number + 1)
        record.write("input.json", json.dumps([{"lr": rate, "seed": 7}]).encode())
        writer = EventWriter(record.metrics_dir)
        for step in range(steps):
            writer.add({f"tag{tag}": tag / (step + 1) for tag in range(TAGS)}, step=step, at_s=at_s + step)
        writer.close()
        record.write("output.json", json.dumps({"loss": rate}).encode())
        record.finish(
            {
                "status": "failed" if number % 50 == 7 else "succeed",
                "endTime": round(at_s * 1000) + 1500,
                "durationMs": 1500.0,
                "peakMemBytes": 30 << 20,
            }
        )
    store.close()


def start_ours(root: Path, count: int) -> BoardStart:
    manager = BoardManager(root, attached=True)
    try:
        began = time.perf_counter()
        manager.start(all_target(root))
        url = manager.wait("all", deadline_s=DEADLINE_S).url or ""
        return _watch(url, count, began, lambda: psutil.Process())
    finally:
        list(manager.stop_each())
        manager.close()
        manager.wait_for_end()


def start_plain(folder: Path, count: int) -> BoardStart:
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--port", "0", "--host", "127.0.0.1"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            # Match the board's address only: TensorBoard prints other addresses, too.
            if match := re.search(r"http://127\.0\.0\.1:\S+", line):
                return _watch(match.group(), count, began, lambda: psutil.Process(process.pid))
        raise RuntimeError("plain TensorBoard did not start")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _watch(url: str, count: int, began: float, top: Callable[[], psutil.Process]) -> BoardStart:
    # A list of ten thousand takes a tenth of a second: asked for without a pause, it would hold the board up.
    pause_s = max(0.005, count / 50_000)
    _until(lambda: _get(url) is not None, pause_s=0.005)
    listening_s = time.perf_counter() - began
    _until(lambda: len(json.loads(_get(f"{url}data/runs") or b"[]")) >= min(count, NEWEST), pause_s=pause_s)
    newest_s = time.perf_counter() - began
    _until(lambda: len(json.loads(_get(f"{url}data/runs") or b"[]")) >= count, pause_s=pause_s)
    _until(lambda: _with_curves(url) >= count, pause_s=pause_s)
    ready_s = time.perf_counter() - began
    processes = top().children(recursive=True)
    if top().pid != os.getpid():
        processes.append(top())
    return BoardStart(listening_s, newest_s, ready_s, _pss(processes))


def _with_curves(url: str) -> int:
    """Return of how many tasks the curves are loaded: a board of ours lists them before that."""
    tags = json.loads(_get(f"{url}data/plugin/timeseries/tags") or b"{}")
    return sum("tag0" in of_run for of_run in tags.get("scalars", {}).get("runTagInfo", {}).values())


def _get(url: str) -> bytes | None:
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=DEADLINE_S)
    try:
        connection.request("GET", f"/{path}")
        response = connection.getresponse()
        body = response.read()
        return body if response.status == 200 else None
    except OSError:
        return None
    finally:
        connection.close()


def _until(condition: Callable[[], bool], *, pause_s: float) -> None:
    end = time.perf_counter() + DEADLINE_S
    while not condition():
        if time.perf_counter() > end:
            raise RuntimeError(f"not within {DEADLINE_S:g} s")
        time.sleep(pause_s)


def _pss(processes: list[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def compare(counts: list[int], rounds: int) -> None:
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    factor, bar = (
        (1 / 3, "at most a third of plain, TensorFlow installed") if has_tensorflow else (1, WORST_BEFORE)
    )
    print(f"one board, median [min-max] of {rounds} rounds, {TAGS} tags x {STEPS} steps a task; {bar}")
    heads = f"{'listening s':>20} {f'newest {NEWEST} s':>20} {'ready s':>20} {'PSS MiB':>8}  bar"
    print(f"{'tasks':>6} {'':14} {heads}")
    for count in counts:
        with _folder() as root:
            make_tasks(root, count)
            first = start_ours(root, count)  # makes what later boards of the same tasks find
            ours, plain = [], []
            for _ in range(rounds):
                ours.append(start_ours(root, count))
                plain.append(start_plain(root / "runs", count))
        ready = statistics.median(start.ready_s for start in ours)
        limit = factor * statistics.median(start.ready_s for start in plain)
        verdict = _verdict(ready <= limit)
        if (bar_s := READY_S.get(count)) is not None:
            verdict += f"; at most {bar_s:g} s: {_verdict(ready <= bar_s)}"
        for name, starts, said in (
            ("hkrunner", ours, verdict),
            ("the first time", [first], ""),
            ("plain", plain, ""),
        ):
            print(
                f"{count:6} {name:14} {_spread([start.listening_s for start in starts]):>20}"
                f" {_spread([start.newest_s for start in starts]):>20}"
                f" {_spread([start.ready_s for start in starts]):>20}"
                f" {statistics.median(start.pss_bytes for start in starts) / 2**20:8.0f}  {said}"
            )


def ten_at_once() -> None:
    with _folder() as root:
        manager = BoardManager(root, attached=True)
        make_tasks(root, 10)
        targets = [
            node_target(root, "local", "train"),
            *(node_target(root, "other", f"n{number}") for number in range(9)),
        ]
        began = time.perf_counter()
        slowest_start = 0.0
        for target in targets:
            before = time.perf_counter()
            manager.start(target)
            slowest_start = max(slowest_start, time.perf_counter() - before)
        urls = {manager.wait(target.id, deadline_s=DEADLINE_S).url for target in targets}
        listening_s = time.perf_counter() - began
        pss = _pss(psutil.Process().children(recursive=True))
        before = time.perf_counter()
        list(manager.stop_each())
        stopped_s = time.perf_counter() - before
        manager.close()
        manager.wait_for_end()
        print(
            f"\nten boards at once: all listen after {listening_s:.1f} s on {len(urls)} ports,"
            f" {pss / 2**20:.0f} MiB PSS together, all stopped in {stopped_s:.2f} s;"
            f" start() took at most {slowest_start * 1000:.1f} ms"
        )


OWNER = """
import sys; from pathlib import Path
from hkrunner.boards.manager import BoardManager; from hkrunner.boards.targets import all_target
manager = BoardManager(Path(sys.argv[1]), attached=True)
manager.start(all_target(manager.root)); manager.wait("all")
print("here", flush=True); input()
"""


def orphans(rounds: int) -> None:
    left = 0
    slowest_s = 0.0
    for _ in range(rounds):
        with _folder() as root:
            owner = subprocess.Popen(
                [sys.executable, "-c", OWNER, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert owner.stdout is not None
            owner.stdout.readline()
            family = psutil.Process(owner.pid).children(recursive=True)
            owner.kill()
            began = time.perf_counter()
            # A zombie has ended; when init reaps it is not part of the measurement.
            while (
                alive := [process for process in family if _runs(process)]
            ) and time.perf_counter() - began < 10:
                time.sleep(0.001)
            slowest_s = max(slowest_s, time.perf_counter() - began)
            owner.communicate()
            left += bool(alive)
            for process in alive:
                process.kill()
    print(
        f"\nowner of a board SIGKILLed: nothing left {rounds - left} of {rounds} times,"
        f" gone after at most {slowest_s * 1000:.0f} ms  {_verdict(left == 0)}"
    )


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="hkrunner-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}-{max(values):.2f}]"


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and runs")
    parser.add_argument("--many", action="store_true", help="ten thousand tasks, too")
    given = parser.parse_args()
    is_quick = given.quick
    counts = [1, 100] if is_quick else [1, 100, 1000]
    compare([*counts, 10_000] if given.many else counts, rounds=2 if is_quick else 5)
    ten_at_once()
    orphans(3 if is_quick else 20)


if __name__ == "__main__":
    main()
