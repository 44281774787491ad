"""What a harness does to each Python of the machine, by a sitecustomize or a .pth file, has no effect."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.child_process import ECHO
from support.programs import HKRUNNER, run
from support.served import serving_worker

COUNTS_GC = "import gc\nfound = []\ngc.callbacks.append(lambda *one: found.append(one))"
RAISES_IN_THREADS = "import threading\nthreading.setprofile(lambda *_: 1 / 0)"
TRACES = (
    "import sys, threading\ndef trace(*_):\n    return trace\nsys.settrace(trace)\nthreading.settrace(trace)"
)
SETS_TIMEOUT = "import socket\nsocket.setdefaulttimeout(0.01)"
REPLACES_STDOUT = "import io, sys\nsys.stdout = io.StringIO()"
PRINTS = "print('a harness')"
LOGS = "import logging, sys\nlogging.basicConfig(level=1, stream=sys.stdout)"

IN_PYTHON = "import sys, hkrunner\nsys.__stdout__.write(str(hkrunner.run('echo.py', [5])[0].output) + '\\n')"


@pytest.mark.parametrize(
    ("way", "harness"),
    [
        *(("locally", one) for one in (COUNTS_GC, RAISES_IN_THREADS, TRACES, PRINTS)),
        *(("in process", one) for one in (COUNTS_GC, SETS_TIMEOUT, REPLACES_STDOUT)),
        *(("from Python", one) for one in (PRINTS, LOGS)),
    ],
)
def test_a_task_is_run_whatever_a_harness_does(way: str, harness: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(harness)
    (tmp_path / "echo.py").write_text(ECHO)
    command = {
        "locally": [HKRUNNER, "-e", "echo.py", "-i", "5", "--no-state"],
        "in process": [HKRUNNER, "-e", "echo.py", "-i", "5", "--no-state", "--in-process"],
        "from Python": [sys.executable, "-c", IN_PYTHON],
    }[way]
    ended = run([*command], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert (ended.status, "[5]" in ended.stdout.splitlines()) == (0, True), ended


@pytest.mark.parametrize("harness", [COUNTS_GC, RAISES_IN_THREADS, SETS_TIMEOUT])
def test_a_worker_is_served_whatever_a_harness_does(harness: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(harness)
    with serving_worker(tmp_path, env={"PYTHONPATH": str(tmp_path)}) as (client, _):
        for number in range(3):
            client.initialize(["give", number])
            client.expect("initialized")
            client.start()
            assert client.expect("done")["data"] == number
