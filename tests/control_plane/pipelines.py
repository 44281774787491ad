"""Pipelines whose nodes are run by hkrunner and by HKube's own wrappers, in HKube's own services.

pipelines.py HKRUNNER CHECKOUT: in a batch, each program reads what each other one has written to the storage
(v3), or has in memory; in a stream, each sends to each other one. PYTHONPATH has the folder `tests`.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jobs import Jobs
from pods import Pod
from services import HERE, ControlPlane, Step, Trouble, say, take
from support import node_wrapper, python_wrapper

#: Of the links between workers and programs.
ENCODINGS = ("json", "bson", "msgpack")
#: Of the storage, and of what programs send to each other. With json HKube's own fail: its wrapper for Python
#: cannot write a result, and its driver cannot read one with the header that its wrapper for Node writes.
STORAGE_ENCODINGS = ("msgpack", "bson")
#: hkrunner and HKube's wrapper for Python; hkrunner with HKube's wrapper for Node, and that wrapper alone.
PODS = ("ours-py", "theirs-py", "ours-js", "theirs-js")
#: In these streams each program is once the source, a stateless node, a stateful one and the last, and sends
#: to each other one once.
STREAMS = ((0, 1, 3, 2), (1, 2, 0, 3), (2, 3, 1, 0), (3, 0, 2, 1))
MESSAGES = 200
#: What no task of these pipelines may be.
BAD = {"failed", "crashed", "stalled", "warning"}
RAW_BYTES = 5000
JOB_S = 300.0
ITEMS = [0, "", [], False, {"k": [1.5, None]}]
VALUE = {
    "text": "ü€\U0001f600",
    "numbers": [0, -1, 2**31, 2**40, 1.5, 1e300],
    "nothing": None,
    "yes": True,
    "deep": {"a": [{"b": []}, {}]},
    "long": "x" * 20_000,
    "items": ITEMS,
}


class Pipelines:
    """The pods, and the pipelines that they run."""

    def __init__(self, hkrunner: str, plane: ControlPlane, folder: Path, modules: Path, python: Path) -> None:
        """Each pod has a folder with its code in `folder`.

        `modules`: of Node, and `python`: both with HKube's wrapper.
        """
        self._jobs = Jobs(plane.url)
        self._watch = plane.watch_tasks()
        self._folder = folder
        self._round = 0
        ours = [hkrunner, "--storage", "v3", "--state-dir", "served"]
        words = {
            "ours-py": [*ours, "relay.py"],
            "theirs-py": [str(python), "-u", str(python_wrapper.MAIN), "relay.py"],
            "ours-js": ours,
            "theirs-js": ["node", "main.js"],
        }
        self._pods = []
        for name in PODS:
            place = folder / name
            place.mkdir()
            if name.endswith("-py"):
                shutil.copy(HERE / "relay.py", place)
            else:
                (place / "node_modules").symlink_to(modules)
                (place / "package.json").write_text("{}")
                shutil.copy(HERE / "relay.js", place / "index.js")
            self._pods.append(Pod(plane, name, words[name], place, STORAGE_PROTOCOL="v3"))
            self._jobs.add_algorithm(name)
            plane.add_algorithm(name)
        (folder / "ours-js" / "algorithm.yml").write_text(
            "name: ours-js\nenv: nodejs\ncode: {entryPoint: index.js}\n"
        )
        (folder / "theirs-js" / "main.js").write_text(
            "require('@hkube/nodejs-wrapper').run(require('./index.js'));\n"
        )

    def start_pods(self, number: int) -> None:
        """Have each pod run with another encoding than in the round before this one."""
        self._round = number
        # With msgpack, HKube's wrapper for Node fails in a stream, since its statistics hold a function: it
        # gets that encoding where it is the last node, which has none.
        chosen = {name: ENCODINGS[(index + number + 1) % 3] for index, name in enumerate(PODS)}
        say(f"links: {', '.join(f'{name} {encoding}' for name, encoding in chosen.items())}")

        def start(pod: Pod) -> None:
            pod.stop()
            pod.start(WORKER_ALGORITHM_ENCODING=chosen[pod.program])

        with ThreadPoolExecutor() as threads:
            for _ in threads.map(start, self._pods):
                pass

    def _wait(self, job: str) -> dict[str, Any]:
        """Return the results of a job none of whose tasks has failed meanwhile. Raises Trouble."""
        found = self._jobs.wait(job, self._check_pods, JOB_S)
        statuses = Counter(one for task in self._watch.statuses(job).values() for one in task)
        if found.get("status") != "completed" or not BAD.isdisjoint(statuses):
            raise Trouble(f"job {job}: in etcd its tasks were {dict(statuses)}; {str(found)[:3000]}")
        return found

    def _check_pods(self) -> None:
        for pod in self._pods:
            if not pod.is_running():
                raise Trouble(f"the pod of {pod.program} has ended")

    # ---- batch

    def passes_values(self) -> None:
        """Each program reads each other's results: whole, in parts, as items, as a group, bytes."""
        nodes = []
        for reader in PODS:
            nodes.append(_node(f"make-{reader}", reader, "same", "@flowInput.value"))
            nodes.append(_node(f"raw-{reader}", reader, "raw", RAW_BYTES))
            for writer in PODS:
                pair, made = f"{writer}-{reader}", f"@make-{writer}"
                nodes += [
                    _node(f"whole-{pair}", reader, "same", made),
                    _node(f"parts-{pair}", reader, "same", [f"{made}.deep.a", {"k": f"{made}.items.4"}]),
                    _node(f"each-{pair}", reader, "same", f"#{made}.items"),
                    _node(f"group-{pair}", writer, "same", f"@each-{pair}"),
                    _node(f"size-{pair}", reader, "measure", f"@raw-{writer}"),
                ]
        job, results = self._run("values", nodes)
        raw = [number % 251 for number in range(RAW_BYTES)]
        expected = {
            "whole": VALUE,
            "parts": [VALUE["deep"]["a"], {"k": ITEMS[4]}],  # type: ignore[index]
            "group": ITEMS,
            "size": [len(raw), sum(raw)],
        }
        wrong = []
        for one in results:
            name, value = one["nodeName"], one.get("result")
            kind, _, pair = name.partition("-")
            right = expected[kind]
            if kind == "group" and pair.startswith("theirs"):  # HKube's wrappers do not keep the order
                value, right = _sorted(value), _sorted(right)
            if value != right:
                wrong.append(f"{name}: {json.dumps(value)[:500]}")
        names = Counter(one["nodeName"] for one in results)
        if wrong or len(names) != 4 * len(PODS) ** 2 or set(names.values()) != {1}:
            raise Trouble(f"job {job}: {len(names)} nodes\n" + "\n".join(wrong))

    def calls_each_other(self) -> None:
        """Each program has each other one run as an algorithm, and gets its result."""
        pairs = [(one, other) for one in PODS for other in PODS if one != other]
        nodes, value = [], "@flowInput.value"
        for one, other in pairs:  # one after the other: a pod has one task at a time
            nodes.append(_node(f"call-{one}-{other}", one, "call", other, value))
            value = f"@{nodes[-1]['nodeName']}"
        job, results = self._run("calls", nodes)
        if [one.get("result") for one in results] != [VALUE]:
            raise Trouble(f"job {job}: {str(results)[:3000]}")

    def _run(self, name: str, nodes: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
        """Return a job that has completed, and its results. Raises Trouble."""
        job = self._jobs.submit({"name": name, "nodes": nodes, "flowInput": {"value": VALUE}})
        return job, self._wait(job)["data"]

    # ---- streams

    def passes_messages(self) -> None:
        """Each message of a stream through four programs arrives once, and unchanged."""
        order = [PODS[index] for index in STREAMS[self._round]]
        end = str(self._folder / f"end-{self._round}")
        work: list[tuple[Any, ...]] = [("send", MESSAGES, end), (), ("pass", end), ("collect", MESSAGES, end)]
        nodes = [_node(name, name, *words) for name, words in zip(order, work, strict=True)]
        for index, node in enumerate(nodes):
            node["stateType"] = "stateless" if index == 1 else "stateful"
        flow = {"flows": {"all": " >> ".join(order)}}
        job = self._jobs.submit({"name": "messages", "kind": "stream", "nodes": nodes, "streaming": flow})
        found = self._wait(job)
        results = {one["nodeName"]: one.get("result") for one in found.get("data") or ()}
        right = {"numbers": list(range(MESSAGES)), "wrong": [], "ways": [f"{order[1]} {order[2]}"]}
        if results.get(order[3]) != right:
            raise Trouble(f"job {job}, {flow}: {str(found)[:3000]}")


def _node(name: str, algorithm: str, *words: Any) -> dict[str, Any]:
    return {"nodeName": name, "algorithmName": algorithm, "input": list(words)}


def _sorted(values: Any) -> list[str]:
    return sorted(map(json.dumps, values or ()))


def main(hkrunner: str, checkout: Path) -> int:
    """Take all steps; return the exit status."""
    # Before the services: the queue ends if it has no algorithm for 30 s.
    modules = node_wrapper.installed() / "node_modules"
    found = python_wrapper.find_python()
    if found is None:
        say(f"✘ {python_wrapper.ABSENT}")
        return 1
    python, _ = python_wrapper.environment(found)

    def steps(plane: ControlPlane, work: Path) -> Iterator[Step]:
        pipelines = Pipelines(hkrunner, plane, work, modules, python)
        for number in range(len(STREAMS)):
            pipelines.start_pods(number)
            yield pipelines.passes_values
            yield pipelines.calls_each_other
            yield pipelines.passes_messages

    for encoding in STORAGE_ENCODINGS:
        say(f"storage and messages: {encoding}")
        status = take(steps, checkout, prefix="hkrunner-pipelines-", name="pods", encoding=encoding)
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]).resolve()))
