"""Limits that the kernel enforces, in a cgroup v2 that was delegated to this user.

Layout, below the cgroup of this process ("own"):

    own/                      subtree_control: memory cpu pids, those that exist
    own/hkrunner-leaf/        hkrunner's processes, if own had any: the kernel allows processes in leaves only
    own/hkrunner-<pid>-<n>/   one run: memory.max, memory.oom.group, memory.swap.max, cpu.max, pids.max

The warden stays outside of the run's group: at the memory limit the kernel kills a whole group, and a killed
warden cannot report. The child joins the group before exec, by writing "0" to a descriptor that was opened
beforehand, so every process that it starts is in the group.

Several wardens may divide the same own at once. A lock on its directory serializes creating and removing of
groups; the last warden moves the processes back and removes the leaf. Processes are moved only if all
processes in own belong to hkrunner. describe() says how each limit is enforced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from ..shared.limits import Limits, format_bytes, tasks_allowed
from . import cgroup_files
from .cgroup_files import LEAF

WANTED = ("memory", "cpu", "pids")
#: The kernel's default period of cpu.max.
PERIOD_US = 100_000
#: Below this the kernel refuses a quota.
LEAST_QUOTA_US = 1_000
#: The kernel reports a group as busy for a moment after its last process was reaped.
REMOVE_S = 2.0
Sleep = Callable[[float], None]


class Place(NamedTuple):
    """A cgroup in which hkrunner may create groups."""

    path: str  #: of the directory
    controllers: frozenset[str]  #: those that the run's group can have
    must_move: frozenset[int] = frozenset()  #: processes that must leave it for a leaf first


class Refusal(NamedTuple):
    """Why there is no such cgroup, for the message that says how limits are enforced."""

    why: str


class Events(NamedTuple):
    """What the kernel has counted in a group. None: the controller is missing."""

    peak_bytes: int | None
    oom_kills: int | None


def find(*, root: str = "/", may_move: Collection[int] = ()) -> Place | Refusal:
    """Return the cgroup v2 that was delegated to us, or why there is none. Changes nothing.

    `may_move`: the processes of hkrunner itself. A cgroup with other processes is not divided, because they
    would have to be moved.
    """
    own = _own_folder(root)
    if own is None:
        return Refusal("no cgroup v2 is mounted")
    if not os.access(own, os.W_OK) or not os.access(f"{own}/cgroup.procs", os.W_OK):
        return Refusal("the cgroup is not writable: none was delegated")
    there = frozenset(cgroup_files.words(f"{own}/cgroup.controllers")) & frozenset(WANTED)
    if not there:
        return Refusal("the cgroup has none of the controllers memory, cpu and pids")
    if not os.access(f"{own}/cgroup.subtree_control", os.W_OK):
        return Refusal("cgroup.subtree_control is not writable")
    enabled = frozenset(cgroup_files.words(f"{own}/cgroup.subtree_control"))
    if there <= enabled or _is_top(own):
        return Place(own, there)
    inside = frozenset(int(pid) for pid in cgroup_files.words(f"{own}/cgroup.procs"))
    strangers = inside - frozenset(may_move) - {os.getpid()}
    if not strangers:
        return Place(own, there, must_move=inside)
    if there & enabled:
        return Place(own, there & enabled)
    return Refusal(f"the cgroup is shared with {len(strangers)} other processes")


def is_ours_to_write(*, root: str = "/") -> bool:
    """Whether this process could leave its cgroup, change its limits, or kill all processes in it."""
    own = _own_folder(root)
    return own is not None and os.access(f"{own}/cgroup.procs", os.W_OK)


def remove_dead_groups(*, root: str = "/") -> None:
    """Remove the groups whose wardens were killed, and undo the division if no group is left."""
    own = _own_folder(root)
    if own is not None and os.access(own, os.W_OK) and cgroup_files.runs_in(own):
        with contextlib.suppress(OSError), cgroup_files.locked(own):
            cgroup_files.sweep(own, os.rmdir)
            cgroup_files.undivide(own, os.rmdir)


class Cgroup:
    """The group of one run."""

    _count = 0

    def __init__(
        self,
        place: Place,
        limits: Limits,
        *,
        mkdir: Callable[[str], None] = os.mkdir,
        rmdir: Callable[[str], None] = os.rmdir,
    ) -> None:
        """Make the group and set its limits. Raises OSError if the kernel refuses; then nothing is left."""
        self._place = place
        self._mkdir, self._rmdir = mkdir, rmdir
        self._leaf = f"{place.path}/{LEAF}"
        Cgroup._count += 1
        self.path = f"{place.path}/hkrunner-{os.getpid()}-{Cgroup._count}"
        self._enabled: list[str] = []  #: controllers that were off before
        self._claim = -1  #: descriptor that is locked for as long as the group's warden lives
        with cgroup_files.locked(place.path):
            cgroup_files.sweep(place.path, rmdir)
            try:
                self._move_ourselves()
                self._enable()
                self._mkdir(self.path)
                self._claim = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(self._claim, fcntl.LOCK_SH)
            except OSError:
                self._release()
                cgroup_files.undivide(place.path, rmdir, self._enabled)
                raise
        found = cgroup_files.words(f"{self.path}/cgroup.controllers")
        self.controllers = frozenset(found) & place.controllers
        self.applied: dict[str, str] = {}
        try:
            for name, value in plan(limits):
                if name.partition(".")[0] in self.controllers:
                    self._write(name, value)
        except OSError:
            self.remove(deadline_s=0)
            raise

    def open_for_join(self) -> int:
        """Return a descriptor for join(), made before the fork."""
        return os.open(f"{self.path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    @staticmethod
    def join(fd: int) -> None:
        """Move the calling process into the group; in the child, between fork and exec."""
        os.write(fd, b"0")

    def holds(self, what: str) -> bool:
        """Whether the kernel enforces this limit: "memory", "cpu" or "pids"."""
        return f"{what}.max" in self.applied

    def read(self) -> Events:
        """Return the events so far."""
        return Events(
            peak_bytes=cgroup_files.number(f"{self.path}/memory.peak"),
            oom_kills=cgroup_files.pairs(f"{self.path}/memory.events").get("oom_kill"),
        )

    def kill(self) -> bool:
        """Kill all processes in the group at once (Linux 5.14); False if the kernel cannot."""
        try:
            with open(f"{self.path}/cgroup.kill", "w", encoding="ascii") as file:
                file.write("1")
        except OSError:
            return False
        return True

    def remove(
        self,
        *,
        deadline_s: float = REMOVE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = time.sleep,
    ) -> bool:
        """Remove the group, and those that the run made below it; False if processes are still in it."""
        deadline = clock() + deadline_s
        pause = 0.0005
        while not cgroup_files.remove_tree(self.path, self._rmdir):
            if clock() >= deadline:
                self._release()  # the next warden that makes a group removes this one
                return False
            sleep(pause)
            pause = min(pause * 2, 0.02)
        self._release()
        with cgroup_files.locked(self._place.path):
            cgroup_files.undivide(self._place.path, self._rmdir, self._enabled)
        return True

    # --- steps

    def _release(self) -> None:
        if self._claim >= 0:
            os.close(self._claim)
            self._claim = -1

    def _write(self, name: str, value: str) -> None:
        try:
            cgroup_files.write(f"{self.path}/{name}", value)
        except FileNotFoundError:
            return  # an older kernel, or one without swap accounting
        self.applied[name] = value

    def _move_ourselves(self) -> None:
        if not self._place.must_move:
            return
        if not os.path.isdir(self._leaf):
            self._mkdir(self._leaf)
        for pid in self._place.must_move:
            try:
                cgroup_files.write(f"{self._leaf}/cgroup.procs", str(pid))
            except ProcessLookupError:
                continue

    def _enable(self) -> None:
        control = f"{self._place.path}/cgroup.subtree_control"
        missing = sorted(self._place.controllers - frozenset(cgroup_files.words(control)))
        if missing:
            cgroup_files.write(control, " ".join(f"+{name}" for name in missing))
            self._enabled = missing


def plan(limits: Limits) -> list[tuple[str, str]]:
    """Return the name and the content of the file for each limit."""
    if not limits.enforced:
        return []
    lines: list[tuple[str, str]] = []
    if limits.memory_bytes is not None:
        lines.append(("memory.max", str(limits.memory_bytes)))
        # Otherwise the kernel would kill one process, and the others would go on without it.
        lines.append(("memory.oom.group", "1"))
        lines.append(("memory.swap.max", "0"))
    if limits.cpu_cores is not None:
        quota = max(LEAST_QUOTA_US, round(limits.cpu_cores * PERIOD_US))
        lines.append(("cpu.max", f"{quota} {PERIOD_US}"))
    if limits.pids is not None:
        lines.append(("pids.max", str(tasks_allowed(limits.pids))))
    return lines


def describe(limits: Limits, group: Cgroup | None, refusal: Refusal | None = None) -> str:
    """Return one line: which limits are enforced, and how."""
    if not limits.enforced:
        return "limits: none enforced, usage is measured only"
    parts = []
    if limits.memory_bytes is not None:
        own = "sampling" if limits.mem_mode == "rss" else "sampling and RLIMIT_DATA"
        by = "the kernel's cgroup" if group is not None and group.holds("memory") else own
        parts.append(f"memory {format_bytes(limits.memory_bytes)} by {by}")
    if limits.cpu_cores is not None:
        by = "the kernel's cgroup" if group is not None and group.holds("cpu") else "stop and continue"
        parts.append(f"cpu {limits.cpu_cores:.12g} by {by}")
    if limits.pids is not None:
        held = group is not None and group.holds("pids")
        by = f", and {tasks_allowed(limits.pids)} threads by the kernel's cgroup" if held else ""
        parts.append(f"processes {limits.pids} by counting{by}")
    if limits.cpu_time_s is not None:
        parts.append(f"cpu time {limits.cpu_time_s:.12g} s")
    if limits.files is not None:
        parts.append(f"files {limits.files} by rlimit")
    if limits.disk_bytes is not None:
        parts.append(f"disk {format_bytes(limits.disk_bytes)} by measuring")
    if limits.task_timeout_s is not None:
        parts.append(f"task {limits.task_timeout_s:.12g} s")
    if limits.start_timeout_s is not None:
        parts.append(f"loading {limits.start_timeout_s:.12g} s")
    line = "limits: " + (", ".join(parts) if parts else "none")
    wanted = limits.memory_bytes is not None or limits.cpu_cores is not None
    return f"{line} ({refusal.why})" if refusal is not None and wanted else line


def _mount(root: str) -> str | None:
    """Return where cgroup v2 is mounted, without `root`; a pure v2 mount is preferred to a mixed one."""
    try:
        with open(f"{root}/proc/self/mounts", encoding="utf-8", errors="replace") as file:
            mounts = [line.split()[1] for line in file if line.split()[2:3] == ["cgroup2"]]
    except OSError:
        return None
    return min(mounts, key=len, default=None)


def _own_folder(root: str) -> str | None:
    """Return the folder of this process's cgroup v2; if that is the leaf of hkrunner, the one above it."""
    mount, unified = _mount(root), _own_path(root)
    if mount is None or unified is None:
        return None
    own = os.path.normpath(f"{root}/{mount}/{unified}")
    if not os.path.isdir(own):
        # A bind mount of the host's tree without a cgroup namespace: this process is at the mount's top.
        own = os.path.normpath(f"{root}/{mount}")
    return os.path.dirname(own) if os.path.basename(own) == LEAF else own


def _own_path(root: str) -> str | None:
    try:
        with open(f"{root}/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("0::"):
                    return line[3:].rstrip("\n").removesuffix(" (deleted)")
    except OSError:
        pass
    return None


def _is_top(path: str) -> bool:
    """Whether this is the root of the hierarchy: it has no cgroup.type, and may have processes and groups."""
    return not os.path.exists(f"{path}/cgroup.type")
