"""What an algorithm can do to hkrunner, and which other programs may end the algorithm."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hkrunner.sandbox.linux import cgroup, landlock
from support.local import ALGORITHMS, run_tasks
from support.programs import HKRUNNER, run, serving
from support.users import bounded_command, give_to_bounded
from support.waiting import wait_until

pytestmark = pytest.mark.alone

ATTACKS = "limits_attacks_the_runner.py"
#: An older kernel cannot confine signals; then the line at the start says so, and there is nothing to hold.
CONFINED = landlock.abi() >= landlock.SCOPES_SINCE_ABI
#: A program that joins a cgroup and becomes another.
JOIN = """import os, sys
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])"""
V1_MEMORY = Path("/sys/fs/cgroup/memory")


def attack(what: str, folder: Path) -> Any:
    """Run one attack as a user without privileges; a task after it must be served."""
    give_to_bounded(folder)
    command = [HKRUNNER, "-e", ALGORITHMS / ATTACKS, "-i", json.dumps([what]), "-i", '["behave"]']
    ended = run(bounded_command(command, tasks=300), cwd=folder)
    answer, served = ended.stdout.splitlines()
    assert (ended.status, served) == (0, '"served"'), ended
    return json.loads(answer)


def test_signals_reach_no_process_outside_of_the_tree(tmp_path: Path) -> None:
    if not CONFINED:
        said = run_tasks(ATTACKS, ["behave"], cwd=tmp_path).tasks[0]["protection"]
        assert said["signals_confined"] is False
        return
    found = attack("look", tmp_path)
    for what in ("signal the warden", "kill the warden", "kill the runner"):
        assert found[what] == "PermissionError", found


def test_memory_and_environment_of_the_runner_cannot_be_read(tmp_path: Path) -> None:
    found = attack("look", tmp_path)
    for what in ("environment of the warden", "environment of the runner", "memory of the runner"):
        assert found[what] in ("PermissionError", "OSError"), found


def test_kill_of_all_processes_kills_the_own_tree_only(tmp_path: Path) -> None:
    if CONFINED:  # without it hkrunner itself gets the signal, see docs/reference/limits.md
        assert attack("kill all", tmp_path) == signal.SIGKILL


def test_an_algorithm_cannot_write_to_its_cgroup(tmp_path: Path) -> None:
    """There it could raise its memory limit, leave its group, or kill hkrunner by cgroup.kill."""
    folder = cgroup._own_folder("/")
    if not (CONFINED and folder is not None and cgroup.is_ours_to_write()):
        return  # no group is ours: there is nothing to write to
    wanted = f"{folder}/cgroup.procs"
    run_of = run_tasks(ATTACKS, ["open the cgroup", wanted], ["behave"], cwd=tmp_path)
    assert run_of.outputs == ["PermissionError", "served"]


def test_limits_of_hkrunner_can_be_lowered_by_the_same_user_and_it_continues(tmp_path: Path) -> None:
    """The kernel lets users change the limits of their own processes; nothing else is promised."""
    assert attack("limit the runner", tmp_path) in ("done", "PermissionError")


def test_the_child_has_only_its_own_descriptors_and_is_the_first_victim_of_the_oom_killer(
    tmp_path: Path,
) -> None:
    found = attack("own facts", tmp_path)
    assert found["oom_score_adj"] >= 500
    own_children = f"/proc/{found['pid']}/task/{found['pid']}/children"
    for target in set(found["fds"]) - {own_children}:
        assert target.startswith(("socket", "/memfd", "pipe", str(tmp_path), "anon_inode")), found["fds"]


def test_a_kill_by_another_process_is_not_reported_as_a_kill_by_hkrunner(tmp_path: Path) -> None:
    arguments = ["-e", ALGORITHMS / "limits_grows_in_blocks.py", "--mem", "256Mi", "-j"]
    inputs = ["-i", '[100, 10, 0, "never"]', "-i", '["behave"]']
    with serving(*arguments, *inputs, cwd=tmp_path) as program:
        pid = int(program.wait_for_line("ready to grow").split()[-1])
        os.kill(pid, signal.SIGKILL)
        assert program.wait() == 137
    first, second = map(json.loads, program.stdout)
    assert first["error"]["code"] == "KILLED_BY_SIGNAL" and first["reason"] == "Crashed"
    assert "SIGKILL (not by this runner)" in first["error"]["message"]
    assert second["output"] == "served"


@pytest.fixture
def full_machine() -> Iterator[Path | None]:
    """A cgroup with 200 MiB around hkrunner: for it and its algorithm the machine is full beyond that."""
    group = V1_MEMORY / f"hkrunner-test-{os.getpid()}-{time.monotonic_ns()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(200 << 20))
    except OSError:
        yield None  # no memory controller of the first kind is ours to make a full machine of
        return
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text(), what="an empty group")
    wait_until(lambda: remove(group), what="the end of the group")


def remove(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def test_a_kill_by_the_machines_oom_killer_is_reported_as_such(
    tmp_path: Path, full_machine: Path | None
) -> None:
    """The kernel's killer takes the algorithm, and the message says so: use is below the limit.

    In 2 of 900 runs it took hkrunner as well; the first line that hkrunner prints says so. So the test
    exempts hkrunner; the algorithm's process sets its own score.
    """
    if full_machine is None:
        return  # tests/unit/test_outcome.py holds the wording, and process.py's decision
    join = (
        "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()));"
        "open('/proc/self/oom_score_adj', 'w').write('-1000'); os.execv(sys.argv[2], sys.argv[2:])"
    )
    command = ["/usr/bin/env", "python3", "-c", join, full_machine / "cgroup.procs", HKRUNNER]
    inputs = ["-i", "[600, 4, 0.002, null]", "-i", '["behave"]']
    arguments = ["-e", ALGORITHMS / "limits_grows_in_blocks.py", "--mem", "1Gi", "-j", *inputs]
    ended = run([*command, *arguments], cwd=tmp_path)
    first, second = map(json.loads, ended.stdout.splitlines())
    assert first["error"]["code"] == "HOST_OOM", first["error"]
    message = first["error"]["message"]
    assert "killed by the system, probably because it had no memory left; own use " in message
    assert "of 1 GiB allowed" in message
    assert (ended.status, first["reason"], second["output"]) == (137, "MemoryLimit", "served")


def test_in_a_container_the_algorithm_gets_the_containers_memory_less_that_of_hkrunner(
    tmp_path: Path, full_machine: Path
) -> None:
    """Nobody wrote a limit down: so that the algorithm is ended with a reason, and not the container."""
    join = (
        "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"
    )
    command = ["/usr/bin/env", "python3", "-c", join, full_machine / "cgroup.procs", HKRUNNER]
    inputs = ["-i", "[600, 4, 0.002, null]", "-i", '["behave"]']
    arguments = ["-e", ALGORITHMS / "limits_grows_in_blocks.py", "-j", *inputs]
    ended = run([*command, *arguments], cwd=tmp_path)
    first, second = map(json.loads, ended.stdout.splitlines())
    assert first["error"]["code"] in ("MEMORY_ERROR", "OUT_OF_MEMORY"), first["error"]
    assert 100 << 20 <= first["memLimitBytes"] <= 130 << 20
    assert "the container's 200 MiB less what hkrunner needs" in ended.stderr + first["error"]["message"]
    assert (ended.status, second["output"]) == (137, "served")


def test_no_warden_is_left_when_no_task_was_run(tmp_path: Path) -> None:
    run_of = run_tasks("adds.py", [1, 2], cwd=tmp_path, args=("--mem", "64Mi"))
    assert run_of.status == 0
    assert not [one for one in psutil.Process().children(recursive=True) if one.is_running()]
