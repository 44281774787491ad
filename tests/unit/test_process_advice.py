"""A process or thread that the kernel refused is told with the limit that refused it."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from hkrunner.runner.protocol.messages import Failure
from hkrunner.runner.serving import process_advice
from hkrunner.runner.serving.process_advice import explain_refused_process
from hkrunner.sandbox.shared import container_limits
from hkrunner.sandbox.shared.container_limits import refusing_task_limits
from hkrunner.sandbox.shared.limits import Limits, tasks_allowed

AGAIN = "ALGORITHM_ERROR: BlockingIOError: [Errno 11] Resource temporarily unavailable"
FORK = '  File "a.py", line 3, in start\n    os.fork()\nBlockingIOError: …'
THREAD = Failure("ALGORITHM_ERROR", "ALGORITHM_ERROR: RuntimeError: can't start new thread\n  frames")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int] | int | None]:
    """What the kernel says: the cgroups' limits that have refused something, the user's limit, who we are."""
    said: dict[str, list[int] | int | None] = {"refusing": [], "user": None, "uid": 1000}
    monkeypatch.setattr(container_limits, "refusing_task_limits", lambda pid: said["refusing"])
    monkeypatch.setattr(process_advice, "_limit_of_user", lambda pid: said["user"])
    monkeypatch.setattr(os, "getuid", lambda: said["uid"])
    return said


@pytest.mark.parametrize(
    ("refusing", "user", "uid", "pids", "told"),
    [
        ([528], None, 0, 4, "--pids 4 allows 528 threads in all"),
        ([528, 5000], 9000, 1000, 4, "--pids 4 allows 528 threads in all"),
        ([], 700, 1000, 4, "--pids 4 allows 528 threads in all"),
        ([200], None, 0, 4, "the cgroup of this container or session allows 200 in all (pids.max)"),
        ([200], 9000, 1000, None, "the cgroup of this container or session allows 200 in all (pids.max)"),
        ([], 300, 1000, 4, "this user may have 300 on the whole machine (ulimit -u)"),
        ([], None, 0, 4, "the machine has no more"),
        ([], None, 0, None, "the machine has no more"),
    ],
)
def test_the_limit_that_refused_a_thread_is_named(
    machine: dict[str, list[int] | int | None],
    refusing: list[int],
    user: int | None,
    uid: int,
    pids: int | None,
    told: str,
) -> None:
    machine.update(refusing=refusing, user=user, uid=uid)
    first, frames = explain_refused_process(THREAD, Limits(pids=pids), 7).message.split("\n")
    assert f"can't start new thread; the kernel refused a process or thread: {told}" in first
    assert frames == "  frames"


@pytest.mark.parametrize(
    ("failure", "printed"),
    [
        (Failure("ALGORITHM_ERROR", AGAIN, FORK), ()),
        (Failure("IMPORT_FAILED", "IMPORT_FAILED: RuntimeError: can't start new thread"), ()),
        (
            Failure("KILLED_BY_SIGNAL", "KILLED_BY_SIGNAL: SIGABRT"),
            ("terminate called after 'std::system_error'", "  what():  Resource temporarily unavailable"),
        ),
        (Failure("EXITED", "EXITED: 1"), ("sh: 1: Cannot fork",)),
        (
            Failure("EXITED", "EXITED: 1"),
            ("libgomp: Thread creation failed: Resource temporarily unavailable",),
        ),
    ],
)
def test_it_is_known_by_what_python_libraries_and_shells_say(
    machine: dict[str, list[int] | int | None], failure: Failure, printed: tuple[str, ...]
) -> None:
    told = explain_refused_process(failure, Limits(), None, printed)
    assert "the kernel refused a process or thread" in told.message


@pytest.mark.parametrize(
    "failure",
    [
        Failure("ALGORITHM_ERROR", AGAIN, "    one.recv(1)\nBlockingIOError: …"),
        Failure("ALGORITHM_ERROR", "ALGORITHM_ERROR: KeyError: 'age'", "    os.fork()"),
        Failure("MEMORY_ERROR", "MEMORY_ERROR: RuntimeError: can't start new thread"),
    ],
)
def test_other_failures_stay_as_they_are(
    machine: dict[str, list[int] | int | None], failure: Failure
) -> None:
    assert explain_refused_process(failure, Limits(pids=4), 7) is failure


def test_only_cgroups_that_have_refused_something_count(tmp_path: Path) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text("3:pids:/pod/run\n0::/\n")
    for folder, most, refused in (("pod/run", "100", 3), ("pod", "50", 0), (".", "max", 9)):
        group = tmp_path / "sys/fs/cgroup/pids" / folder
        group.mkdir(parents=True, exist_ok=True)
        (group / "pids.max").write_text(f"{most}\n")
        (group / "pids.events").write_text(f"max {refused}\n")
    assert refusing_task_limits(7, root=str(tmp_path)) == [100]
    assert refusing_task_limits(8, root=str(tmp_path)) == []


def test_the_limit_of_a_process_that_has_ended_is_that_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    own = None if soft == resource.RLIM_INFINITY else soft
    assert process_advice._limit_of_user(os.getpid()) == process_advice._limit_of_user(2**22 + 1) == own
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert process_advice._limit_of_user(os.getpid()) is None
    assert tasks_allowed(4) == 528
