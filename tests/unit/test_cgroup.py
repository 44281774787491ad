"""The kernel's own limits: against a tree of files laid out like the kernel's, and against the real one.

The real one here means: a cgroup v2 that this user can make groups in. Where the machine has none, or none
with the controller that a test needs, that test sees to it that we are told so.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hkrunner.sandbox.linux import cgroup
from hkrunner.sandbox.linux.cgroup import LEAF, Cgroup, Place, Refusal
from hkrunner.sandbox.shared.limits import MI, Limits
from support.trees import Tree
from support.waiting import wait_until

pytestmark = pytest.mark.alone

LIMITS = Limits(memory_bytes=64 * MI, cpu_cores=0.5, pids=10)


class Laid:
    """Files and folders as a kernel with a delegated group would show them."""

    def __init__(
        self, root: Path, *, own: str = "/user/own", controllers: str = "cpu io memory pids"
    ) -> None:
        self.root = root
        self.top = root / "sys/fs/cgroup"
        self.own = self.top / own.lstrip("/")
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(f"0::{own}\n")
        (root / "proc/self/mounts").write_text(
            "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"
        )
        self.own.parent.mkdir(parents=True)
        self.controllers = controllers
        self.mkdir(str(self.own))

    def mkdir(self, path: str) -> None:
        """What the kernel does when a group is made: its files are there."""
        folder = Path(path)
        folder.mkdir()
        controllers = self.controllers
        if folder != self.own:
            controllers = (self.own / "cgroup.subtree_control").read_text().replace("+", "")
        (folder / "cgroup.controllers").write_text(controllers + "\n")
        for name in ("cgroup.subtree_control", "cgroup.procs", "cgroup.kill", "cgroup.type"):
            (folder / name).write_text("")
        (folder / "cgroup.events").write_text("populated 0\nfrozen 0\n")
        for name in ("memory.max", "memory.oom.group", "memory.swap.max", "cpu.max", "pids.max"):
            if name.split(".")[0] in controllers:
                (folder / name).write_text("")

    def rmdir(self, path: str) -> None:
        shutil.rmtree(path)

    def group(self, place: Place, limits: Limits = LIMITS) -> Cgroup:
        return Cgroup(place, limits, mkdir=self.mkdir, rmdir=self.rmdir)


def found(laid: Laid, *may_move: int) -> Place:
    place = cgroup.find(root=str(laid.root), may_move=may_move)
    assert isinstance(place, Place), place
    return place


def test_a_delegated_group_is_found_with_the_controllers_it_has(tmp_path: Path) -> None:
    laid = Laid(tmp_path, controllers="cpu io memory")
    assert found(laid) == Place(str(laid.own), frozenset({"cpu", "memory"}))


def test_a_run_gets_a_group_with_each_limit_in_its_file(tmp_path: Path) -> None:
    laid = Laid(tmp_path)
    group = laid.group(found(laid))
    path = Path(group.path)
    assert path.parent == laid.own and path.name.startswith(f"hkrunner-{os.getpid()}-")
    assert (path / "memory.max").read_text() == str(64 * MI)
    assert (path / "memory.oom.group").read_text() == "1"
    assert (path / "memory.swap.max").read_text() == "0"
    assert (path / "cpu.max").read_text() == "50000 100000"
    assert int((path / "pids.max").read_text()) >= 10
    assert group.holds("memory") and group.holds("cpu") and group.holds("pids")
    assert group.remove()
    assert not path.exists()


def test_the_child_joins_by_a_descriptor_and_kill_is_one_write(tmp_path: Path) -> None:
    laid = Laid(tmp_path)
    group = laid.group(found(laid))
    fd = group.open_for_join()
    group.join(fd)
    os.close(fd)
    assert Path(group.path, "cgroup.procs").read_text() == "0"
    assert group.kill()
    assert Path(group.path, "cgroup.kill").read_text() == "1"
    group.remove()
    assert not group.kill()


def test_hkrunner_moves_to_a_leaf_group_first_and_back_at_the_end(tmp_path: Path) -> None:
    laid = Laid(tmp_path)
    (laid.own / "cgroup.procs").write_text(f"{os.getpid()}\n4711\n")
    place = found(laid, 4711)
    assert place.must_move == {os.getpid(), 4711}
    group = laid.group(place)
    leaf = laid.own / LEAF
    assert (leaf / "cgroup.procs").read_text() in {str(os.getpid()), "4711"}
    assert (laid.own / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    group.remove()
    assert not leaf.exists()
    assert not list(laid.own.glob("hkrunner*"))


def test_a_second_warden_in_the_leaf_divides_the_same_group(tmp_path: Path) -> None:
    laid = Laid(tmp_path)
    (laid.own / "cgroup.procs").write_text(str(os.getpid()))
    first = laid.group(found(laid))
    (laid.own / "cgroup.subtree_control").write_text("cpu memory pids")
    (laid.root / "proc/self/cgroup").write_text(f"0::/user/own/{LEAF}\n")
    second = laid.group(found(laid))
    assert Path(second.path).parent == laid.own
    first.remove()
    # The controllers hold the second one's limits.
    assert (laid.own / "cgroup.subtree_control").read_text() == "cpu memory pids"
    assert (laid.own / LEAF).exists()
    second.remove()
    assert not (laid.own / LEAF).exists()


def test_the_group_of_a_warden_that_was_killed_is_removed_and_the_division_undone(tmp_path: Path) -> None:
    laid = Laid(tmp_path)
    (laid.own / "cgroup.procs").write_text(str(os.getpid()))
    lost, living = laid.group(found(laid)), laid.group(found(laid))
    (laid.own / "cgroup.subtree_control").write_text("cpu memory pids")
    lost._release()  # as the kernel does at the end of its warden
    third = laid.group(found(laid))
    assert [os.path.exists(one.path) for one in (lost, living, third)] == [False, True, True]
    assert third.remove()
    assert (laid.own / LEAF).exists(), "the controllers hold the limits of the living one"
    living._release()
    # The kernel's rmdir removes the files of a group with it; here they are files like others.
    shutil.rmtree(living.path)
    Path(living.path).mkdir()
    (laid.own / LEAF / "cgroup.procs").write_text("")
    for left in (laid.own / LEAF).iterdir():
        left.unlink()
    cgroup.remove_dead_groups(root=str(tmp_path))
    assert not list(laid.own.glob("hkrunner*"))
    assert "-cpu" in (laid.own / "cgroup.subtree_control").read_text()


def test_a_group_can_be_written_only_where_one_was_delegated(tmp_path: Path) -> None:
    laid = Laid(tmp_path)
    assert cgroup.is_ours_to_write(root=str(tmp_path))
    (laid.own / "cgroup.procs").unlink()
    assert not cgroup.is_ours_to_write(root=str(tmp_path))


def test_other_processes_in_the_group_are_not_moved(tmp_path: Path) -> None:
    laid = Laid(tmp_path)
    (laid.own / "cgroup.procs").write_text(f"{os.getpid()}\n4711\n4712\n")
    assert cgroup.find(root=str(tmp_path)) == Refusal("the cgroup is shared with 2 other processes")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda laid: (laid.root / "proc/self/mounts").write_text(""), "no cgroup v2 is mounted"),
        (
            lambda laid: (laid.root / "proc/self/cgroup").write_text("4:memory:/x\n"),
            "no cgroup v2 is mounted",
        ),
        (
            lambda laid: (laid.own / "cgroup.controllers").write_text("hugetlb\n"),
            "has none of the controllers",
        ),
        (lambda laid: (laid.own / "cgroup.procs").unlink(), "none was delegated"),
        (lambda laid: (laid.own / "cgroup.subtree_control").unlink(), "subtree_control is not writable"),
    ],
)
def test_what_was_not_delegated_is_left_alone_with_a_reason(tmp_path: Path, change: object, why: str) -> None:
    laid = Laid(tmp_path)
    change(laid)  # type: ignore[operator]
    refusal = cgroup.find(root=str(tmp_path))
    assert isinstance(refusal, Refusal)
    assert why in refusal.why


def test_a_path_from_outside_of_the_container_means_the_mounts_top(tmp_path: Path) -> None:
    laid = Laid(tmp_path)
    for name in ("cgroup.controllers", "cgroup.subtree_control", "cgroup.procs"):
        (laid.top / name).write_text((laid.own / name).read_text())
    (tmp_path / "proc/self/cgroup").write_text("0::/../elsewhere\n")
    assert found(laid).path == str(laid.top)


def test_a_kernel_that_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    laid = Laid(tmp_path)
    (laid.own / "cgroup.procs").write_text(str(os.getpid()))
    place = found(laid)

    def refuse(path: str) -> None:
        if path.endswith(LEAF):
            laid.mkdir(path)
        else:
            raise PermissionError(path)

    with pytest.raises(PermissionError):
        Cgroup(place, LIMITS, mkdir=refuse, rmdir=laid.rmdir)
    assert not list(laid.own.glob("hkrunner*"))


def test_the_existing_counters_are_read(tmp_path: Path) -> None:
    laid = Laid(tmp_path)
    group = laid.group(found(laid))
    path = Path(group.path)
    assert group.read() == cgroup.Events(None, None)
    (path / "memory.peak").write_text("2000\n")
    (path / "memory.events").write_text("low 0\nhigh 0\nmax 5\noom 1\noom_kill 3\n")
    assert group.read() == cgroup.Events(2000, 3)
    group.remove()


def test_removal_of_a_busy_group_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    laid = Laid(tmp_path)
    group = laid.group(found(laid))

    def busy(path: str) -> None:
        raise OSError(16, "busy", path)

    now = [0.0]
    group._rmdir = busy
    assert not group.remove(
        deadline_s=1.0, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s)
    )
    assert 1.0 <= now[0] < 1.1


def test_one_line_says_how_each_limit_is_enforced(tmp_path: Path) -> None:
    laid = Laid(tmp_path, controllers="memory")
    group = laid.group(found(laid))
    assert cgroup.describe(LIMITS, group) == (
        "limits: memory 64 MiB by the kernel's cgroup, cpu 0.5 by stop and continue, processes 10 by counting"
    )
    assert cgroup.describe(LIMITS, None, Refusal("no cgroup v2 is mounted")) == (
        "limits: memory 64 MiB by sampling and RLIMIT_DATA, cpu 0.5 by stop and continue, "
        "processes 10 by counting (no cgroup v2 is mounted)"
    )
    assert cgroup.describe(Limits(), None) == "limits: none"
    assert "measured only" in cgroup.describe(Limits(pids=1, enforced=False), None)
    group.remove()


def test_limits_that_are_not_enforced_write_nothing() -> None:
    assert cgroup.plan(Limits(memory_bytes=MI, enforced=False)) == []


# --- the real one ---


def real_place(controller: str | None = None) -> Place | None:
    """A real group to make groups in, with this controller if one is asked for; None: not on this machine."""
    place = cgroup.find(may_move=[os.getpid()])
    if isinstance(place, Place) and controller in (None, *place.controllers):
        return place
    mount = cgroup._mount("/")
    if controller is not None or mount is None:
        return None
    probe = f"{mount}/hkrunner-probe-{os.getpid()}"
    try:
        os.mkdir(probe)
        os.rmdir(probe)
    except OSError:
        return None
    return Place(mount, frozenset())


def needs_real(controller: str | None) -> Callable[[Callable[[Place], None]], Callable[[], None]]:
    """On a machine without such a group, the test is that this is reported."""

    def wrap(test: Callable[[Place], None]) -> Callable[[], None]:
        def run() -> None:
            place = real_place(controller)
            if place is not None:
                test(place)
                return
            answer = cgroup.find(may_move=[os.getpid()])
            assert isinstance(answer, Refusal) or controller not in answer.controllers
            if isinstance(answer, Refusal):
                assert answer.why

        return run

    return wrap


@needs_real(None)
def test_the_real_kernel_takes_in_a_process_before_exec_and_kills_its_whole_tree(
    place: Place,
) -> None:
    group = Cgroup(place, Limits())
    fd = group.open_for_join()
    code = """
import os, signal, time
signal.alarm(90)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        signal.alarm(90)
        break
time.sleep(80)
"""
    with Tree() as tree:
        pid = tree.start(code=code, before_exec=lambda: group.join(fd))
        os.close(fd)
        members = Path(group.path, "cgroup.procs")
        wait_until(lambda: len(members.read_text().split()) == 4, what="four members", deadline_s=60)
        assert str(pid) in members.read_text().split()
        assert str(os.getpid()) not in members.read_text().split()
        assert not group.remove(deadline_s=0.01)
        assert group.kill()
        wait_until(lambda: tree.reap() or tree.ended.get(pid), what="its end", deadline_s=60)
        assert os.WTERMSIG(tree.ended[pid]) == signal.SIGKILL
        wait_until(lambda: not members.read_text(), what="everybody's end", deadline_s=60)
    assert group.remove()
    assert not os.path.exists(group.path)


@needs_real("memory")
def test_the_real_kernel_holds_a_memory_limit(place: Place) -> None:
    group = Cgroup(place, Limits(memory_bytes=64 * MI))
    fd = group.open_for_join()
    with Tree() as tree:
        pid = tree.start("sandbox_hog.py", "pages", "200", before_exec=lambda: group.join(fd))
        os.close(fd)
        wait_until(lambda: tree.reap() or tree.ended.get(pid), what="its end", deadline_s=60)
    assert group.read().oom_kills
    assert group.remove()


@needs_real(None)
def test_making_and_removing_take_no_time_worth_mentioning(place: Place) -> None:
    took = []
    for _ in range(5):
        began = time.monotonic()
        assert Cgroup(place, Limits()).remove()
        took.append(time.monotonic() - began)
    assert min(took) < 0.4
