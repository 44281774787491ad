"""A stream in HKube's own services, while hkrunner and the workers of each of its nodes are restarted.

streams.py HKRUNNER CHECKOUT: after each restart, messages that are sent later have to arrive, and the job has
to end well. What has ended is started again, as Kubernetes does.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jobs import Jobs
from pods import Pod
from services import ControlPlane, Step, Trouble, say, take

#: The nodes, in the order of the flow; the one in the middle is stateless.
SOURCE, _, END = NODES = ("source", "middle", "end")
KILL, TERM = signal.SIGKILL, signal.SIGTERM
#: Seconds for messages to arrive again: HKube's driver and auto-scaler look every 10 s or so.
AGAIN_S = 240.0
#: HKube's auto-scaler may end replicas after 30 s.
LASTS_S = 60.0
JOB_S = 120.0
CODE = """\
import os, time

def start(args, api):
    if args.get("streamInput"):
        return args["streamInput"]["message"]
    folder = args["input"][0]
    sent, got, end = (os.path.join(folder, name) for name in ("sent", "got", "over"))
    if args["nodeName"] == "source":
        number = int(open(sent).read()) if os.path.exists(sent) else 0
        while not os.path.exists(end):
            for number in range(number, number + 20):
                api.sendMessage({"number": number})
            number += 1
            with open(sent + ".part", "w") as file:
                file.write(str(number))
            os.replace(sent + ".part", sent)
            time.sleep(0.1)
        return number
    with open(got, "a", buffering=1) as file:
        api.registerInputListener(lambda message, origin: file.write(f"{message['number']}\\n"))
        api.startMessageListening()
        while not os.path.exists(end):
            time.sleep(0.1)
        time.sleep(3)
    return "done"
"""


class Streams:
    """The job, and the pods that run its nodes."""

    def __init__(self, hkrunner: str, plane: ControlPlane, folder: Path) -> None:
        self._plane = plane
        self._jobs = Jobs(plane.url)
        self._folder = folder
        self._pods = {}
        self._job = ""
        for name in NODES:
            place = folder / name
            place.mkdir()
            (place / "stream.py").write_text(CODE)
            words = [hkrunner, "stream.py", "--storage", "v3", "--state-dir", "served"]
            self._pods[name] = Pod(plane, name, words, place)
            self._jobs.add_algorithm(name)
            plane.add_algorithm(name)

    def begins(self) -> None:
        """A stream of three nodes begins."""
        for pod in self._pods.values():
            pod.start()
        nodes: list[dict[str, Any]] = [
            {"nodeName": name, "algorithmName": name, "input": [str(self._folder)], "stateType": "stateful"}
            for name in NODES
        ]
        nodes[1]["stateType"] = "stateless"
        flow = {"flows": {"all": " >> ".join(NODES)}}
        self._job = self._jobs.submit({"name": "stream", "kind": "stream", "nodes": nodes, "streaming": flow})
        self._goes_on()

    def lasts(self) -> None:
        """HKube's auto-scaler leaves the stateless node its replica while many messages come."""
        end = time.monotonic() + LASTS_S
        while time.monotonic() < end:
            self._keep()
            time.sleep(0.2)
        self._goes_on()

    def restarted(self, node: str, *killed: tuple[str, int]) -> Callable[[], None]:
        """Return the step that ends these processes of a node: "worker", "program"."""

        def step() -> None:
            pod = self._pods[node]
            for what, sign in killed:
                self._plane.signal(pod.worker if what == "worker" else pod.program, sign)
            self._goes_on()

        what = " and ".join(f"its {one} by {signal.Signals(sign).name}" for one, sign in killed)
        step.__doc__ = f"Messages arrive again after an end of {node}: {what}."
        return step

    def ends(self) -> None:
        """The job completes when the source and the last node return."""
        (self._folder / "over").touch()
        found = self._jobs.wait(self._job, self._keep, JOB_S)
        if found.get("status") != "completed":
            raise Trouble(f"job {self._job}: {str(found)[:3000]}")
        self._say_counts("are lost")

    def _goes_on(self) -> None:
        """Return when messages arrive that are sent from now on. Raises Trouble."""
        end, begun = time.monotonic() + AGAIN_S, time.monotonic()
        while time.monotonic() < begun + 3:  # what was ended is noticed within this time
            self._keep()
            time.sleep(0.2)
        after = self._sent()
        while sum(number > after for number in self._got()) < 20:
            if time.monotonic() > end:
                raise Trouble(f"nothing has come that was sent after message {after} of {self._sent()}")
            self._keep()
            time.sleep(0.2)
        self._say_counts("have not come yet")

    def _say_counts(self, missing: str) -> None:
        got, sent = self._got(), self._sent()
        say(f"  of {sent} messages {sent - len(got)} {missing}, {got.total() - len(got)} have come twice")

    def _keep(self) -> None:
        for pod in self._pods.values():
            pod.keep()

    def _sent(self) -> int:
        file = self._folder / "sent"
        return int(file.read_text()) if file.exists() else 0

    def _got(self) -> Counter[int]:
        file = self._folder / "got"
        return Counter(map(int, file.read_text().split())) if file.exists() else Counter()


def main(hkrunner: str, checkout: Path) -> int:
    """Take all steps; return the exit status."""

    def steps(plane: ControlPlane, work: Path) -> Iterable[Step]:
        streams = Streams(hkrunner, plane, work)
        yield streams.begins
        yield streams.lasts
        # Not of the node in the middle: HKube starts no other replica until it wants more than before.
        for node in (END, SOURCE):
            yield streams.restarted(node, ("program", KILL))
            yield streams.restarted(node, ("worker", KILL))
            yield streams.restarted(node, ("program", TERM))
            yield streams.restarted(node, ("worker", TERM), ("program", TERM))
        yield streams.ends

    return take(steps, checkout, prefix="hkrunner-streams-", name="stream")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]).resolve()))
