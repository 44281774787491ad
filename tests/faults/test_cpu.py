"""CPU: the quota holds on average for any shape of tree, and no process below it is stopped."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from support.local import ALGORITHMS, run_tasks
from support.programs import Program, serving

pytestmark = pytest.mark.alone

CORES = 0.5
SECONDS = 3.0
BAR = 0.05
TRIES = 3
#: The machine was too busy to say anything if it had less than this left for the tree while it was measured,
#: or if the warden, who needs a moment 25 times a second, stood in the queue for longer than this.
LEAST_FREE_CORES = 2 * CORES
MOST_WAIT = 0.05


class Moment(NamedTuple):
    """The machine's own books at one moment, in seconds."""

    at: float
    idle: float
    warden_waited: float


def moment(warden: int) -> Moment:
    ticks = os.sysconf("SC_CLK_TCK")
    fields = Path("/proc/stat").read_text().split(None, 6)
    waited_ns = int(Path(f"/proc/{warden}/schedstat").read_text().split()[1])
    return Moment(time.monotonic(), int(fields[4]) / ticks, waited_ns / 1e9)


def warden_of(program: Program) -> int:
    (found,) = (one.pid for one in psutil.Process(program.pid).children() if "warden" in one.cmdline())
    return found


def measured(shape: str, folder: Path) -> tuple[dict[str, Any], str]:
    """Return the algorithm's account of itself, and why the machine was too busy; "" if it was not."""
    arguments = ["-e", ALGORITHMS / "limits_spins_measured.py", "--cpu", str(CORES)]
    with serving(*arguments, "-i", json.dumps([shape, SECONDS]), cwd=folder) as program:
        program.wait_for_line("counting", deadline_s=60)
        before = moment(warden := warden_of(program))
        program.wait_for_line("counted", deadline_s=60)
        after = moment(warden)
        assert program.wait() == 0
    found = json.loads(program.stdout[0])
    passed = after.at - before.at
    free = (after.idle - before.idle + found["cpu_s"]) / passed
    waited = (after.warden_waited - before.warden_waited) / passed
    busy = ""
    if free < LEAST_FREE_CORES or waited > MOST_WAIT:
        busy = f"{free:.2f} cores were free, the warden waited {waited:.1%} of the time"
    return found, busy


@pytest.mark.parametrize("shape", ["thread", "threads", "processes", "forks"])
def test_the_quota_holds_within_a_twentieth(shape: str, tmp_path: Path) -> None:
    told = []
    for _ in range(TRIES):
        found, busy = measured(shape, tmp_path)
        error = found["cpu_s"] / found["wall_s"] / CORES - 1
        if abs(error) <= BAR:
            return
        told.append(f"{error:+.1%} ({busy or 'the machine was free'})")
        assert busy, told
        # A machine without the time to give can keep a tree below its quota, never lift it above.
        assert error <= 2 * BAR, told


def test_a_light_program_is_not_held_up(tmp_path: Path) -> None:
    """A beat each 5 ms costs far less than the quota: with it and without, it comes equally late."""
    told = []
    for _ in range(TRIES):
        free, held = (
            run_tasks("limits_spins_measured.py", ["light", 1.5], cwd=tmp_path, args=args).outputs[0]
            for args in ((), ("--cpu", str(CORES)))
        )
        if held["late_ms"] <= free["late_ms"] + 5:
            return
        told.append((free, held))
    raise AssertionError(f"a single stop takes tens of milliseconds: {told}")


def test_libraries_are_told_to_start_as_many_threads_as_there_are_cores_to_use(tmp_path: Path) -> None:
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]
    env = {**dict.fromkeys(names), "MKL_NUM_THREADS": "3"}
    args = ("--cpu", "1.5")
    run = run_tasks("limits_says_its_variables.py", names, cwd=tmp_path, args=args, env=env)
    assert run.outputs == [["2", "2", "3"]]
    run = run_tasks("limits_says_its_variables.py", names, cwd=tmp_path, env=env)
    assert run.outputs == [[None, None, "3"]], "without a limit nothing is set"


def test_the_run_shows_what_enforces_the_quota_and_how_much_time_was_used(tmp_path: Path) -> None:
    run = run_tasks("limits_spins.py", ["thread", 1.0], cwd=tmp_path, args=("--cpu", str(CORES)))
    line = run.tasks[0]["protection"]["line"]
    assert line.startswith("limits: cpu 0.5 by ") and ("stop and continue" in line or "cgroup" in line)
    assert 0.3 <= run.tasks[0]["cpuSeconds"] <= 1.1
    assert run.status == 0
