"""Drives HKube's own control plane with hkrunner: drive.py HKRUNNER CHECKOUT.

Each step says what holds. The first that does not ends the run with status 1, and the logs are kept.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from services import ControlPlane, Step, Trouble, take

#: Seconds for a command of hkrunner, on a busy machine: a batch of 200 tasks goes through one worker.
COMMAND_S = 600.0
DESCRIPTOR = "name: square\nresources: {cpu: 0.5, mem: 128Mi}\ncode: {path: ./, entryPoint: square.py}\n"
CODE = """\
import os, time

def start(args, api):
    number = args["input"][0]
    if number == "large":
        return "x" * 300_000
    with open(os.path.join(os.environ["ALGO_METRICS_DIR"], "events.out.tfevents.1.interop"), "wb"):
        pass
    time.sleep(0.02)
    return number * number
"""


class Command:
    """What a command of hkrunner printed."""

    def __init__(self, words: list[str], status: int, stdout: str, stderr: str) -> None:
        self.words, self.status, self.stdout, self.stderr = words, status, stdout, stderr

    @property
    def lines(self) -> list[str]:
        """The lines of stdout."""
        return self.stdout.splitlines()

    @property
    def objects(self) -> list[Any]:
        """The JSON on each line of stdout."""
        return [json.loads(line) for line in self.lines]

    def __repr__(self) -> str:
        shown = " ".join(self.words)
        return f"{shown}: status {self.status}\n{self.stdout[-2000:]}{self.stderr[-4000:]}"


class Driver:
    """The commands of hkrunner in a folder with the algorithm."""

    def __init__(self, hkrunner: str, plane: ControlPlane, folder: Path) -> None:
        self._hkrunner = hkrunner
        self._plane = plane
        self._folder = folder
        (folder / "square.py").write_text(CODE)
        (folder / "algorithm.yml").write_text(DESCRIPTOR)
        (folder / "numbers.jsonl").write_text("".join(f"{number}\n" for number in range(200)))

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start a command in the cluster."""
        variables = {key: value for key, value in os.environ.items() if not key.startswith("HKRUNNER_")}
        return subprocess.Popen(
            [self._hkrunner, *words],
            cwd=self._folder,
            env={**variables, "HKRUNNER_CLUSTER": self._plane.url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen[str], *words: str) -> Command:
        """Return what it printed once it has ended. Raises Trouble if it does not."""
        try:
            stdout, stderr = process.communicate(timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
            raise Trouble(f"{' '.join(words)} did not end\n{stderr[-4000:]}") from None
        return Command(list(words), process.returncode, stdout, stderr)

    def run(self, *words: str) -> Command:
        """Run a command in the cluster."""
        return self.end(self.begin(*words), *words)

    # ---- steps

    def applies_an_image(self) -> None:
        """An algorithm is applied with an image, is its current version, and is listed."""
        applied = self.run("apply", "--image", "registry.example/square:1", "--json")
        check(applied.status == 0 and applied.objects[0]["isCurrent"], applied)
        listed = self.run("algorithm", "ls")
        check(any(line.split()[0] == "square" for line in listed.lines), listed)
        again = self.run("apply", "--image", "registry.example/square:1", "--mem", "256Mi", "--current")
        check(again.status == 0 and "changes mem: 128Mi → 256Mi" in again.stderr, again)

    def serves_the_worker(self) -> None:
        """HKube's worker is served by hkrunner."""
        self._plane.run_worker("square", "worker")
        words = [self._hkrunner, "square.py", "--state-dir", "served"]
        self._plane.start_program("hkrunner", words, self._folder, "worker", {})

    def runs_inputs(self) -> None:
        """Inputs of every form come back in order, large results too, and a failure with its reason."""
        words = [part for value in ("3", '"large"', '"x"', "5") for part in ("-i", value)]
        ended = self.run("square.py", *words, "--json")
        outputs = [one.get("output") for one in ended.objects]
        check(ended.status == 1 and outputs == [9, "x" * 300_000, None, 25], ended)
        check("TypeError" in ended.objects[2]["error"]["message"], ended)

    def runs_a_batch(self) -> None:
        """A batch of 200 is one job, whose results are in the order of the inputs."""
        self._check_batch(self.run("square.py", "--tasks", "numbers.jsonl"))

    def outlives_the_api_server(self) -> None:
        """A run goes on after the api-server was away, without a second job."""
        words = ("square.py", "--tasks", "numbers.jsonl")
        process = self.begin(*words)
        self._wait_for_tasks()
        self._plane.stop_api()
        time.sleep(2)
        self._plane.start_api()
        ended = self.end(process, *words)
        self._check_batch(ended)
        check("answers again" in ended.stderr, ended)

    def stops_a_job(self) -> None:
        """Ctrl-C stops the job."""
        words = ("square.py", "--tasks", "numbers.jsonl")
        process = self.begin(*words)
        self._wait_for_tasks()
        process.send_signal(signal.SIGINT)
        ended = self.end(process, *words)
        check(ended.status == 130 and ended.stderr.rstrip().endswith("stopped"), ended)

    def asks_for_a_board(self) -> None:
        """A board of the cluster is started; no operator runs here that would go on."""
        words = ("square.py", "-i", "3", "--board")
        process = self.begin(*words)
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:  # it ends after 3 minutes
            lines.append(line)
            if "starts the board" in line:
                process.send_signal(signal.SIGINT)
        ended = self.end(process, *words)
        check(ended.status == 130 and any("has ended: hkrunner runs follow" in one for one in lines), ended)

    def follows_and_compares(self) -> None:
        """A job that was left is followed, and compared with its limit; its metrics are fetched."""
        left = self.run("square.py", "-i", "4", "--detach", "--quiet")
        check(left.status == 0 and len(left.lines) == 1, left)
        job = left.lines[0]
        followed = self.run("runs", "follow", job)
        check(followed.stdout == "16\n", followed)
        compared = self.run("compare", job, "--json", "--board")
        self.run("board", "stop", "--all")
        check(compared.status == 0, compared)
        (facts,) = compared.objects
        check(facts["mem"] == "256Mi" and facts["compared"][0]["status"] == "succeed", compared)
        fetched = list((self._folder / ".hkrunner" / "runs").rglob("events.out.tfevents.1.interop"))
        check(len(fetched) == 1, compared)

    def chooses_a_version(self) -> None:
        """The versions are listed, and an earlier one is made the current one, by force while a job runs."""
        words = ("algorithm", "versions", "square")
        listed = self.run(*words, "--json")
        numbers = [(one["number"], one["isCurrent"]) for one in listed.objects]
        check(listed.status == 0 and numbers == [("1.0.0", False), ("1.0.1", True)], listed)
        unknown = self.run(*words, "--use", "9.9.9")
        check(
            unknown.status == 8 and "no version 9.9.9 of square; it has 1.0.0, 1.0.1" in unknown.stderr,
            unknown,
        )
        running = self.begin("square.py", "--tasks", "numbers.jsonl")
        self._wait_for_tasks()
        refused = self.run(*words, "--use", "1.0.0")
        check(refused.status == 8 and "--force changes it nevertheless" in refused.stderr, refused)
        used = self.run(*words, "--use", "1.0.0", "--force")
        check(used.status == 0 and "square 1.0.0 is the current version" in used.stderr, used)
        running.send_signal(signal.SIGINT)
        self.end(running, "square.py", "--tasks", "numbers.jsonl")
        shown = self.run("algorithm", "show", "square", "--json")
        check(shown.objects[0]["mem"] == "128Mi", shown)
        again = self.run(*words, "--use", listed.objects[1]["id"], "--force")
        check(again.status == 0 and self.run(*words).lines[1].startswith("* 1.0.1"), again)

    def removes_the_algorithm(self) -> None:
        """The algorithm is removed."""
        removed = self.run("algorithm", "rm", "square", "--force")
        check(removed.status == 0, removed)
        shown = self.run("algorithm", "show", "square")
        check(shown.status == 3 and "has no algorithm square" in shown.stderr, shown)

    def _check_batch(self, ended: Command) -> None:
        expected = [str(number * number) for number in range(200)]
        check(ended.status == 0 and ended.lines == expected, ended)
        check(ended.stderr.count("● job ") == 1, ended)

    def _wait_for_tasks(self) -> None:
        """Return when hkrunner, as the algorithm, has begun another task."""
        log = self._plane.log_of("hkrunner")
        before, end = log.stat().st_size, time.monotonic() + COMMAND_S
        while log.stat().st_size == before:
            if time.monotonic() > end:
                raise Trouble("no task has come to the worker")
            time.sleep(0.05)


def check(holds: bool, ended: Command) -> None:
    """Raise Trouble with what the command printed, unless it holds."""
    if not holds:
        raise Trouble(repr(ended))


def main(hkrunner: str, checkout: Path) -> int:
    """Take all steps; return the exit status."""

    def steps(plane: ControlPlane, work: Path) -> Iterable[Step]:
        driver = Driver(hkrunner, plane, work)
        plane.add_algorithm("square")
        return (
            driver.applies_an_image,
            driver.serves_the_worker,
            driver.runs_inputs,
            driver.runs_a_batch,
            driver.outlives_the_api_server,
            driver.stops_a_job,
            driver.asks_for_a_board,
            driver.follows_and_compares,
            driver.chooses_a_version,
            driver.removes_the_algorithm,
        )

    return take(steps, checkout, prefix="hkrunner-interop-", name="square")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]).resolve()))
