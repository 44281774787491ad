"""Run the programs of tests/algorithms locally."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .programs import RUN_S, run_hkrunner

ALGORITHMS = Path(__file__).parents[1] / "algorithms"


@dataclass(frozen=True)
class Run:
    """A local run that has ended: the objects of --json, one per task."""

    status: int
    tasks: list[dict[str, Any]]
    stderr: str

    @property
    def outputs(self) -> list[Any]:
        return [task["output"] for task in self.tasks]


def run_tasks(
    algorithm: str | Path,
    *inputs: Any,
    args: tuple[str | Path, ...] = (),
    cwd: Path,
    env: Mapping[str, str | None] | None = None,
    deadline_s: float = RUN_S,
) -> Run:
    """Run a program with each input as a separate task; the records are below cwd."""
    given = [word for value in inputs for word in ("--input", json.dumps(value))]
    ended = run_hkrunner(
        "--entry", ALGORITHMS / algorithm, *given, "--json", *args, cwd=cwd, env=env, deadline_s=deadline_s
    )
    # Exceptions of the user's code are shown without "Traceback", so this would be one of hkrunner. Python
    # itself shows one for what it ignores, such as a thread that had no memory to begin; the last output of a
    # task that was killed shows it again, indented, and perhaps without its beginning.
    ours = re.sub(r"Exception ignored in .*\nTraceback", "", ended.stderr)
    assert re.search(r"^Traceback", ours, re.MULTILINE) is None, ended.stderr
    return Run(ended.status, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr)


def misbehave_once(
    algorithm: str | Path, *, cwd: Path, args: tuple[str | Path, ...] = (), deadline_s: float = RUN_S
) -> Run:
    """Run two tasks: the program misbehaves in the first one, and the second one must still succeed."""
    run = run_tasks(algorithm, ["misbehave"], ["behave"], args=args, cwd=cwd, deadline_s=deadline_s)
    assert len(run.tasks) == 2, run
    assert (run.tasks[1]["status"], run.tasks[1]["output"]) == ("succeed", "served"), run
    return run


def error_of(task: dict[str, Any]) -> tuple[str, str]:
    """Return code and message of a task that failed; the message begins with the code."""
    assert task["status"] == "failed", task
    code, message = task["error"]["code"], task["error"]["message"]
    assert message.startswith(f"{code}: "), message
    assert len(message) < 20_000, f"a message of {len(message)} characters"
    return code, message
