"""Tasks of every kind in HKube's own services, also while hkrunner and the worker are restarted.

mixed.py HKRUNNER CHECKOUT [TASKS]: each task has to have one end, the right one, in HKube's results, in etcd
and, where it is there, in the graph of the job. The first step has TASKS tasks, or 1,000. What has ended is
started again, as Kubernetes does.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobs import JOB_S, Jobs
from pods import Pod
from services import ControlPlane, Step, Trouble, take

NAME = "mixed"
#: Of each kind so many tasks in 1,000.
KINDS = {
    **{"ok": 700, "raises": 120, "exits": 60, "exits well": 30, "segfaults": 40, "breaches": 30},
    **{"large": 3, "nothing": 17},
}
#: In the end of a task of this kind, HKube has this text.
FAILURES = {
    "raises": "ValueError: no ",
    "exits": "ended its process with code 3",
    "exits well": "ended its process with code 0",
    "segfaults": "SIGSEGV",
    "breaches": "MEMORY",
}
LARGE = 200_000_000
#: How a task ends.
ENDS = ("succeed", "failed", "stopped", "skipped")
#: Seconds for a task to stop: it ignores `stop`, so hkrunner waits for its grace.
STOP_S = 60.0
#: Seconds for what etcd says of tasks to arrive after their results.
ETCD_S = 30.0
CODE = f"""\
import os, signal, time

def start(args, api):
    number, kind = args["input"][0]["number"], args["input"][0]["kind"]
    with open("runs.txt", "a") as file:
        file.write(f"{{number}}\\n")
    if kind == "raises":
        raise ValueError(f"no {{number}}")
    if kind.startswith("exits"):
        os._exit(3 if kind == "exits" else 0)
    if kind == "segfaults":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "breaches":
        blocks = []
        while True:
            blocks.append(bytearray(b"x" * 16_000_000))
    if kind == "waits":
        time.sleep(0.5)
    if kind == "sleeps":
        time.sleep(60)
    if kind == "large":
        return bytes({LARGE})
    return None if kind == "nothing" else {{"number": number, "square": number * number}}
"""


class Mixed:
    """Jobs of the algorithm, and the pod that runs it."""

    def __init__(self, hkrunner: str, plane: ControlPlane, folder: Path, count: int) -> None:
        """`count`: of the tasks of the first step."""
        words = [hkrunner, "mixed.py", "--storage", "v3", "--state-dir", "served", "--mem", "600Mi"]
        self._kinds = {kind: max(1, share * count // 1000) for kind, share in KINDS.items()}
        self._plane = plane
        self._folder = folder
        self._jobs = Jobs(plane.url)
        self._pod = Pod(plane, NAME, words, folder, DISCOVERY_ENABLE="false")
        (folder / "mixed.py").write_text(CODE)
        self._watch = plane.watch_tasks()

    def begin(self) -> None:
        """Have the algorithm served by a pod."""
        self._jobs.add_algorithm(NAME)
        self._plane.add_algorithm(NAME)
        self._pod.start()

    def _submit(self, name: str, items: list[dict[str, Any]], **node: Any) -> str:
        pipeline = {
            "name": name,
            "nodes": [{"nodeName": NAME, "algorithmName": NAME, "input": ["#@flowInput.items"], **node}],
            "flowInput": {"items": items},
            "options": {"batchTolerance": 100},
        }
        return self._jobs.submit(pipeline)

    def _ends(self, job: str) -> dict[int, str]:
        """Return the ends of tasks that the graph of a job has: the last ones may never get there."""
        (node,) = self._jobs.call(f"graph/parsed/{job}")["nodes"]
        return {one["batchIndex"]: one["status"] for one in node["batch"] if one["status"] in ENDS}

    # ---- steps

    def ends_each_kind(self) -> None:
        """Tasks of every kind end as they should: values, errors, exits, crashes, limits, 200 MB."""
        items = _items(self._kinds)
        job = self._submit("kinds", items)
        self._jobs.wait(job, self._pod.keep)
        self._check(job, items)

    def stops(self) -> None:
        """A job that is stopped has no task left that works, although they ignore it."""
        job = self._submit("stopped", _items({"ok": 5, "sleeps": 3}, shuffled=False))
        self._wait_for_runs(6)
        self._jobs.call("exec/stop", {"jobId": job})
        self._jobs.wait(job, self._pod.keep)
        self._wait_for_line("■ task ")
        found = (self._jobs.results(job) or {}).get("status")
        if found != "stopped":
            raise Trouble(f"job {job} was stopped and is {found}")

    def _wait_for_line(self, text: str) -> None:
        """Return when hkrunner has printed a line that begins like this."""
        end, log = time.monotonic() + STOP_S, self._plane.log_of(self._pod.program)
        while not any(line.startswith(text) for line in log.read_text().splitlines()):
            if time.monotonic() > end:
                raise Trouble(f"hkrunner has printed no line {text!r}")
            time.sleep(0.1)

    def ends_what_lasts_too_long(self) -> None:
        """A task that exceeds its ttl fails for that, and the next ones go on."""
        items = _items({"sleeps": 2, "ok": 3}, shuffled=False)
        job = self._submit("ttl", items, ttl=1)
        self._jobs.wait(job, self._pod.keep)
        self._check(job, items, {"sleeps": "Algorithm TTL expired"})

    def outlives_restarts(self) -> None:
        """Tasks are neither lost nor doubled when hkrunner, the worker or both are killed or ended."""
        kinds = {
            "ok": 200,
            "raises": 40,
            "exits": 20,
            "segfaults": 10,
            "breaches": 8,
            "large": 4,
            "nothing": 8,
        }
        items = _items({**kinds, "waits": 10})
        job = self._submit("restarts", items)
        worker, program, before = self._pod.worker, self._pod.program, self._pod.restarts
        for names, sign in (
            ((program,), signal.SIGKILL),
            ((worker,), signal.SIGKILL),
            ((worker, program), signal.SIGTERM),
            ((program,), signal.SIGTERM),
            ((worker, program), signal.SIGKILL),
        ):
            self._wait_for_runs(40)
            for name in names:
                self._plane.signal(name, sign)
            self._pod.keep()
        self._jobs.wait(job, self._pod.keep)
        restarts = self._pod.restarts - before
        self._check(job, items, restarts=restarts)
        if restarts < 5:
            raise Trouble(f"the pod was started again {restarts} times")

    def _wait_for_runs(self, count: int) -> None:
        """Return when so many further tasks have begun."""
        end, wanted = time.monotonic() + JOB_S, len(self._runs()) + count
        while len(self._runs()) < wanted:
            if time.monotonic() > end:
                raise Trouble(f"{count} further tasks have not begun")
            self._pod.keep()
            time.sleep(0.05)

    def _runs(self) -> list[str]:
        file = self._folder / "runs.txt"
        return file.read_text().split() if file.exists() else []

    def _check(
        self,
        job: str,
        items: list[dict[str, Any]],
        failures: dict[str, str] | None = None,
        *,
        restarts: int = 0,
    ) -> None:
        """Raise Trouble unless each task has ended once and as it should, and has begun once.

        `restarts`: so many tasks may have begun again: each restart interrupts one.
        """
        expected = {**FAILURES, **(failures or {})}
        results = (self._jobs.results(job) or {})["data"]
        if Counter(one["batchIndex"] for one in results) != Counter(range(1, len(items) + 1)):
            raise Trouble(f"{len(results)} results of {len(items)} tasks of job {job}")
        ends = self._ends(job)
        wrong, right = [], Counter[str]()
        for one in results:
            item = items[one["batchIndex"] - 1]
            kind, number = item["kind"], item["number"]
            if kind in expected:
                good, status = expected[kind] in str(one.get("error")), "failed"
            elif kind == "large":
                good, status = one["info"]["size"] == LARGE, "succeed"
            else:
                value = None if kind == "nothing" else {"number": number, "square": number * number}
                good, status = "error" not in one and one.get("result") == value, "succeed"
            right[status] += 1
            end = ends.get(one["batchIndex"], status)
            if not good or end != status:
                wrong.append(f"{item}: {end} {str(one)[:300]}")
        if wrong:
            raise Trouble(f"{len(wrong)} tasks have a wrong end:\n" + "\n".join(wrong[:20]))
        self._check_etcd(job, right)
        runs = Counter(self._runs())
        again = Counter({item["number"]: runs[str(item["number"])] - 1 for item in items})
        if min(again.values()) < 0 or again.total() > restarts:
            many = [number for number, more in again.items() if more]
            raise Trouble(f"with {restarts} restarts, tasks that did not begin once: {many[:20]}")

    def _check_etcd(self, job: str, right: Counter[str]) -> None:
        """Raise Trouble unless so many tasks of each end were in etcd, and no task had two ends.

        The results may be there before what etcd says.
        """
        end = time.monotonic() + ETCD_S
        while (counted := self._ends_in_etcd(job)) != Counter({(one,): many for one, many in right.items()}):
            if self._watch.problem or time.monotonic() > end:
                why = self._watch.problem or f"after {ETCD_S:g} s"
                raise Trouble(f"job {job}: in etcd the tasks ended with {counted}, not with {right} ({why})")
            time.sleep(0.1)

    def _ends_in_etcd(self, job: str) -> Counter[tuple[str, ...]]:
        """Return how many tasks had which ends: more than one if they differ."""
        found = self._watch.statuses(job).values()
        return Counter(tuple(sorted({one for one in statuses if one in ENDS})) for statuses in found)


def _items(kinds: dict[str, int], *, shuffled: bool = True) -> list[dict[str, Any]]:
    """Return the inputs of so many tasks of each kind, each with a number of its own."""
    found = [kind for kind, count in kinds.items() for _ in range(count)]
    if shuffled:
        random.Random(1).shuffle(found)
    first = next(_numbers)
    return [{"number": first * 10_000 + index, "kind": kind} for index, kind in enumerate(found)]


_numbers = iter(range(1, 1000))


def main(hkrunner: str, checkout: Path, count: int) -> int:
    """Take all steps; return the exit status."""

    def steps(plane: ControlPlane, work: Path) -> Iterable[Step]:
        mixed = Mixed(hkrunner, plane, work, count)
        mixed.begin()
        return mixed.ends_each_kind, mixed.stops, mixed.ends_what_lasts_too_long, mixed.outlives_restarts

    return take(steps, checkout, prefix="hkrunner-mixed-", name=NAME)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]).resolve(), int((sys.argv[3:] or ["1000"])[0])))
