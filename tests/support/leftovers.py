"""Find what a test leaves behind, by comparing the state of the machine before and after it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil

from .processes import all_pids, descendants, describe, marked

SHARED_MEMORY = Path("/dev/shm")
#: What hkrunner, the libraries of an algorithm and the tests' programs make there; other programs do, too.
OUR_NAMES = re.compile(r"hkrunner|psm_|sem\.|pymp-|tmp|joblib_|loky|torch_|[a-z]+_test_")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Stock:
    """Everything that a test could leave behind, at one moment."""

    pids: frozenset[int]
    threads: frozenset[threading.Thread]
    descriptors: dict[int, str]
    shared_memory: frozenset[Path]
    temporary: frozenset[Path]
    cgroups: frozenset[Path]


def take_stock() -> Stock:
    return Stock(
        pids=frozenset(all_pids()),
        threads=frozenset(threading.enumerate()),
        descriptors=open_descriptors(),
        shared_memory=frozenset(one for one in entries(SHARED_MEMORY, "") if OUR_NAMES.match(one.name)),
        temporary=entries(Path(tempfile.gettempdir()), "hkrunner"),
        cgroups=own_cgroups(),
    )


def leftovers(before: Stock, marker: str) -> list[str]:
    """Return a sentence for each thing that exists now and did not exist before."""
    now = take_stock()
    processes = left_processes(before, now, marker)
    return [
        *(f"{describe(process)} was left" for process in processes),
        *(f"thread {thread.name!r} was left running" for thread in now.threads - before.threads),
        *(
            f"descriptor {number} was left open: {target}"
            for number, target in now.descriptors.items()
            if before.descriptors.get(number) != target
        ),
        *(
            f"shared memory {path} was left behind"
            for path in now.shared_memory - before.shared_memory
            if not is_held_by_others(path, processes)
        ),
        *(f"{path} was left in the temporary folder" for path in now.temporary - before.temporary),
        *(
            f"control group {path} was left behind"
            for path in now.cgroups - before.cgroups
            if not has_other_members(path, processes)
        ),
    ]


def left_processes(before: Stock, now: Stock, marker: str) -> set[psutil.Process]:
    """Return the new processes: descendants of this one, and those with the marker in their environment."""
    new = now.pids - before.pids
    return marked(marker, among=new) | descendants(new)


def open_descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        # The descriptor by which the folder is listed is closed by now.
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def entries(folder: Path, prefix: str) -> frozenset[Path]:
    try:
        return frozenset(folder / name for name in os.listdir(folder) if name.startswith(prefix))
    except FileNotFoundError:
        return frozenset()


def own_cgroups() -> frozenset[Path]:
    """Return the folders hkrunner* of each hierarchy: at its top, and below the group of this process."""
    found: set[Path] = set()
    for folder in folders_of_groups(Path("/proc/self/cgroup").read_text()):
        found |= entries(folder, "hkrunner")
    return frozenset(found)


@functools.cache
def folders_of_groups(groups: str) -> list[Path]:
    """Return the folders that exist in which hkrunner may make a group, for the text of /proc/self/cgroup."""
    found: set[Path] = set()
    for line in groups.splitlines():
        _, controllers, place = line.split(":", 2)
        for top in (CGROUPS, CGROUPS / controllers.removeprefix("name="), CGROUPS / "unified"):
            found |= {top, top / place.lstrip("/")}
    return [folder for folder in found if folder.is_dir()]


def is_held_by_others(path: Path, ours: set[psutil.Process]) -> bool:
    """Whether a process of another program has mapped the shared memory, or has made the folder."""
    our_pids = {os.getpid(), *(process.pid for process in ours)}
    # Folders that hkrunner makes there: the name ends with pid, start and a random number (abandoned.py).
    # What a unit test beside this one makes there ends with its pid, and the next test makes it again.
    maker = re.search(r"^hkrunner(?:-.*-(\d+)-\d+-[0-9a-f]{8}|_unit_\D*(\d+))$", path.name)
    if maker is not None:
        pid = maker[1] or maker[2]
        return int(pid) not in our_pids and Path(f"/proc/{pid}").exists()
    try:
        inode = path.stat().st_ino
    except FileNotFoundError:
        return True  # it is gone by now
    # Not the name: sem_open(3) maps a semaphore under a temporary one.
    wanted = re.compile(rf"^\S+ \S+ \S+ \S+ {inode} +{SHARED_MEMORY}/", re.MULTILINE)
    for pid in set(psutil.pids()) - our_pids:
        with contextlib.suppress(OSError):
            if wanted.search(Path(f"/proc/{pid}/maps").read_text()):
                return True
    return False


def has_other_members(group: Path, ours: set[psutil.Process]) -> bool:
    """Whether a process of another program is in the group: hkrunner may also run for other users."""
    our_pids = {os.getpid(), *(process.pid for process in ours)}
    members: set[int] = set()
    for folder in [group, *group.rglob("*/")]:
        with contextlib.suppress(OSError):
            members |= {int(pid) for pid in (folder / "cgroup.procs").read_text().split()}
    return bool(members - our_pids)
