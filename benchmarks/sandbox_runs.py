"""Run the programs of scripts/bench sandbox with and without hkrunner, and collect the measured values."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).resolve().parent.parent / "tests" / "algorithms"
HKRUNNER = Path(sysconfig.get_path("scripts"), "hkrunner")

#: (figure, peer) -> the measured values
values: dict[tuple[str, str], list[float]] = defaultdict(list)


def call(program: str, given: list[Any]) -> list[str]:
    """Return the command that runs one of the programs without hkrunner."""
    code = "import importlib, json, sys; sys.path.insert(0, sys.argv[1])\n"
    code += "made = importlib.import_module(sys.argv[2]).start({'input': json.loads(sys.argv[3])}, None)\n"
    code += "print(json.dumps(made))"
    return [sys.executable, "-c", code, str(PROGRAMS), program.removesuffix(".py"), json.dumps(given)]


def hkrunner(program: str, *given: list[Any], args: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Run tasks with the real command, and return the objects of --json."""
    inputs = [word for one in given for word in ("-i", json.dumps(one))]
    with tempfile.TemporaryDirectory(prefix="hkrunner-bench-") as folder:
        command = [str(HKRUNNER), "-e", str(PROGRAMS / program), *args, *inputs, "-j", "-q"]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return [json.loads(line) for line in ended.stdout.splitlines()]


def end_session(process: subprocess.Popen[Any]) -> None:
    """Kill the process and everything in its session, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
