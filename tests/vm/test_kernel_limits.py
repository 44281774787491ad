"""What only a kernel with a delegated cgroup v2 can show: run by scripts/vm-test, in a virtual machine.

The tests themselves are in a group of their own below the delegated one, and each run of hkrunner in another.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.local import ALGORITHMS
from support.processes import runs
from support.programs import HKRUNNER, Program, run
from support.waiting import wait_until

DELEGATED = Path("/sys/fs/cgroup", Path("/proc/self/cgroup").read_text().strip().removeprefix("0::/")).parent
JOIN = "import os, sys; open(sys.argv[1], 'w').write('0'); os.execv(sys.argv[2], sys.argv[2:])"
MI = 1 << 20
#: Seconds: everything is emulated.
DEADLINE_S = 200.0


@pytest.fixture
def group() -> Iterator[Path]:
    """A delegated group for one hkrunner; at the end nothing may be in it."""
    made = DELEGATED / f"run-{os.getpid()}-{len(list(DELEGATED.iterdir()))}"
    made.mkdir()
    yield made
    wait_until(lambda: not (made / "cgroup.procs").read_text(), what="an empty group", deadline_s=DEADLINE_S)
    assert not [one.name for one in made.iterdir() if one.is_dir()], "groups of hkrunner are left"
    made.rmdir()


def in_group(group: Path, code: str, *arguments: str | Path) -> list[str | Path]:
    command = [sys.executable, "-I", "-c", JOIN, group / "cgroup.procs", HKRUNNER, "-e", ALGORITHMS / code]
    return [*command, "--json", *arguments]


def tasks(group: Path, code: str, *arguments: str | Path, cwd: Path) -> list[dict[str, Any]]:
    ended = run(in_group(group, code, *arguments), cwd=cwd, deadline_s=DEADLINE_S)
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert found, ended
    for one in found:
        print(one["status"], (one["error"] or {}).get("message", one["output"]), one["protection"]["line"])
    return found


def test_memory_is_held_by_the_kernel_and_the_kill_is_told_with_what_was_used(
    group: Path, tmp_path: Path
) -> None:
    inputs = ["-i", "[400, 4, 0, null]", "-i", '["behave"]']
    options = ["--mem", "128Mi", "--mem-mode", "rss"]
    first, second = tasks(group, "limits_grows_in_blocks.py", *options, *inputs, cwd=tmp_path)
    assert first["error"]["code"] == "OUT_OF_MEMORY"
    assert "of 128 MiB allowed (--mem)" in first["error"]["message"]
    assert "memory 128 MiB by the kernel's cgroup" in first["protection"]["line"]
    assert first["peakMemBytes"] <= 128 * MI
    assert second["output"] == "served"


def test_an_allocation_at_the_limit_fails_in_the_code_before_the_kernel_kills(
    group: Path, tmp_path: Path
) -> None:
    inputs = ["-i", "[400, 4, 0.02, null]", "-i", '["behave"]']
    first, second = tasks(group, "limits_grows_in_blocks.py", "--mem", "128Mi", *inputs, cwd=tmp_path)
    assert first["error"]["code"] in ("MEMORY_ERROR", "OUT_OF_MEMORY")
    assert second["output"] == "served"


def test_pages_of_files_that_are_read_do_not_count(group: Path, tmp_path: Path) -> None:
    code = tmp_path / "reads.py"
    code.write_text(
        "def start(args, api):\n"
        "    size = 0\n"
        "    for path in args['input'][0]:\n"
        "        with open(path, 'rb') as file:\n"
        "            while data := file.read(1 << 20):\n"
        "                size += len(data)\n"
        "    return size\n"
    )
    packages = Path(pytest.__file__).parents[1]
    libraries = [str(one) for one in packages.glob("*.libs/*.so*")]
    (task,) = tasks(group, str(code), "--mem", "32Mi", "-i", json.dumps([libraries]), cwd=tmp_path)
    assert task["output"] > 40 * MI, task["error"]


def test_cpu_time_is_held_by_the_kernel(group: Path, tmp_path: Path) -> None:
    cores = 0.5
    options = ["--cpu", str(cores), "-i", '["thread", 4]']
    (task,) = tasks(group, "limits_spins_measured.py", *options, cwd=tmp_path)
    assert f"cpu {cores:g} by the kernel's cgroup" in task["protection"]["line"]
    used = task["output"]["cpu_s"] / task["output"]["wall_s"]
    print("cores used:", used)
    # Less, where the machine outside has no time for this one.
    assert used < cores * 1.2


def test_a_thread_beyond_pids_is_refused_by_the_kernel_and_told_with_its_option(
    group: Path, tmp_path: Path
) -> None:
    inputs = ["-i", '["threads"]', "-i", '["behave"]']
    refused, served = tasks(group, "limits_is_refused_processes.py", "--pids", "4", *inputs, cwd=tmp_path)
    first = refused["error"]["message"].partition("\n")[0]
    assert "can't start new thread" in first and "--pids 4 allows 528 threads in all" in first
    assert "528 threads by the kernel's cgroup" in refused["protection"]["line"]
    assert served["output"] == "served"


def test_processes_beyond_pids_are_ended(group: Path, tmp_path: Path) -> None:
    inputs = ["-i", '["forks"]', "-i", '["behave"]']
    ended, served = tasks(group, "limits_is_refused_processes.py", "--pids", "20", *inputs, cwd=tmp_path)
    assert ended["error"]["code"] == "TOO_MANY_PROCESSES"
    assert "of 20 allowed (--pids)" in ended["error"]["message"]
    assert served["output"] == "served"


@pytest.mark.parametrize("killed", ["hkrunner", "warden"])
def test_no_process_and_no_group_stays_after_a_kill(group: Path, tmp_path: Path, killed: str) -> None:
    inputs = ["-i", '["sleep"]', "-v", "--mem", "256Mi"]
    program = Program(in_group(group, "strict_is_refused.py", *inputs), cwd=tmp_path)
    try:
        program.wait_for_line("RUNNING", deadline_s=DEADLINE_S)
        below = psutil.Process(program.pid).children(recursive=True)
        assert len(below) >= 2
        assert [one.name for one in group.iterdir() if one.name.startswith("hkrunner-")]
        (program if killed == "hkrunner" else below[0]).send_signal(signal.SIGKILL)
        wait_until(lambda: not [one for one in below if runs(one)], what="the end of all", deadline_s=30)
        program.wait(deadline_s=DEADLINE_S)
    finally:
        program.kill()


def test_what_is_isolated_cannot_write_to_its_group(group: Path, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "attacks.py").write_text(
        "import os\n"
        "def start(args, api):\n"
        "    found = {}\n"
        "    for name in ('memory.max', 'cgroup.procs', 'cgroup.kill'):\n"
        "        try:\n"
        "            os.close(os.open(f\"{args['input'][0]}/{name}\", os.O_WRONLY))\n"
        "            found[name] = 'done'\n"
        "        except OSError as error:\n"
        "            found[name] = type(error).__name__\n"
        "    return found\n"
    )
    # Not the one of the tests: in the home of root another user cannot read it within its namespaces.
    options = ["--sandbox", "strict", "--mem", "256Mi", "--python", "/usr/bin/python3"]
    (task,) = tasks(group, str(code / "attacks.py"), *options, "-i", json.dumps([str(group)]), cwd=tmp_path)
    assert task["protection"]["sandbox"] == "full" and task["protection"]["level"] == "cgroup"
    assert set(task["output"].values()) == {"FileNotFoundError"}
