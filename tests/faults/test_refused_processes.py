"""A process or thread that the kernel refuses: the error names the limit that refused it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.local import ALGORITHMS
from support.programs import HKRUNNER, Result, run
from support.users import bounded_command, give_to_bounded
from support.waiting import wait_until

pytestmark = pytest.mark.alone

HOW = ["threads", "forks", "programs", "processes", "ends_itself"]
JOIN = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"
COMMAND: list[str | Path] = [HKRUNNER, "-e", ALGORITHMS / "limits_is_refused_processes.py", "-j"]


def inputs(*kinds: str) -> list[str | Path]:
    return [word for kind in (*kinds, "behave") for word in ("-i", json.dumps([kind]))]


def check(ended: Result, told: str) -> None:
    """Each task but the last one failed with this text, and the last one was served."""
    *refused, served = map(json.loads, ended.stdout.splitlines())
    assert served["output"] == "served"
    for task in refused:
        first = task["error"]["message"].partition("\n")[0]
        assert f"the kernel refused a process or thread: {told}" in first, first


@pytest.fixture
def small_container() -> Iterator[Path | None]:
    """A cgroup that allows 100 processes and threads; None: no such controller is ours to write to."""
    group = Path(f"/sys/fs/cgroup/pids/hkrunner-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "pids.max").write_text("100")
    except OSError:
        yield None
        return
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text(), what="an empty group")
    group.rmdir()


def test_a_refusal_by_the_container_names_its_limit(tmp_path: Path, small_container: Path | None) -> None:
    if small_container is None:
        return  # tests/unit/test_process_advice.py holds the wording; tests/vm has a cgroup v2
    join = ["/usr/bin/env", "python3", "-c", JOIN, small_container / "cgroup.procs"]
    ended = run([*join, *COMMAND, *inputs(*HOW)], cwd=tmp_path, deadline_s=60)
    check(ended, "the cgroup of this container or session allows 100 in all (pids.max)")


def test_a_refusal_by_the_users_limit_names_ulimit(tmp_path: Path) -> None:
    give_to_bounded(tmp_path)
    command = [*COMMAND, "--pids", "1000", *inputs("threads", "programs")]
    check(run(bounded_command(command, tasks=100), cwd=tmp_path, deadline_s=60), "this user may have ")


def test_a_refusal_for_pids_names_the_option_that_raises_it(tmp_path: Path) -> None:
    give_to_bounded(tmp_path)
    command = [*COMMAND, "--pids", "4", *inputs("threads")]
    ended = run(bounded_command(command, tasks=3000), cwd=tmp_path, deadline_s=60)
    check(ended, "--pids 4 allows 528 threads in all")
