"""Which levels of --sandbox strict this machine can hold, and tests that need one."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from hkrunner.runner.cli.doctor_finding import Machine
from hkrunner.runner.cli.doctor_sandbox import check_sandbox
from hkrunner.sandbox.linux import procfs
from hkrunner.sandbox.shared.isolation_policy import LEVELS

from .local import ALGORITHMS
from .programs import HKRUNNER, run
from .waiting import wait_until


def possible_levels() -> list[str]:
    """Return the levels that this machine can hold, strongest first, as `hkrunner doctor` finds them."""
    found = {one.name: one.ok for one in check_sandbox(Machine({"TMPDIR": "/tmp"}, "/nowhere"))}
    return [level for level in LEVELS if found[f"sandbox {level}"]]


POSSIBLE = possible_levels()
#: The strongest one; where there is none, the tests are that nothing is started.
BEST = POSSIBLE[0] if POSSIBLE else "landlock"


def needs_sandbox(test: Callable[..., None]) -> Callable[..., None]:
    """Where the machine can hold no level, the test is that nothing is started."""

    @functools.wraps(test)
    def run_it(*args: Any, **named: Any) -> None:
        if POSSIBLE:
            test(*args, **named)
            return
        command = [HKRUNNER, ALGORITHMS / "strict_is_refused.py", "-i", '"behave"', "--sandbox", "strict"]
        ended = run([*command, "--sandbox-level", "landlock"], cwd=named["folder"])
        assert (ended.status, "SANDBOX_UNAVAILABLE" in ended.stderr) == (2, True), ended

    return run_it


def private_folders() -> list[str]:
    """Return the folders that isolated processes have left which are younger than this process."""
    # The names end with the pid namespace, the pid and the start of their maker, and a random number.
    here, own_start = os.stat("/proc/self/ns/pid").st_ino, procfs.stat(os.getpid()).started
    found = []
    for folder in ("/tmp", "/dev/shm"):
        for name in os.listdir(folder):
            namespace, pid, start, _ = [*name.rsplit("-", 4), "", "", "", ""][1:5]
            if name.startswith("hkrunner-box-") and namespace == str(here) and int(start) > own_start:
                found += [] if os.path.exists(f"/proc/{pid}") else [f"{folder}/{name}"]
    return found


def check_nothing_is_left() -> None:
    wait_until(lambda: not private_folders(), what="the end of all folders of isolated processes")


def python_for_all() -> str:
    """Return a Python that any user may execute: one in the home of root is for root alone."""
    here = os.path.realpath(sys.executable)
    home = os.path.realpath(os.path.expanduser("~"))
    return "/usr/bin/python3" if here.startswith(home + "/") else sys.executable
