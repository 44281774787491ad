"""The files of a cgroup v2, and the folders in which hkrunner divides it: read, write, lock, remove."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

#: The folder for ourselves: the kernel allows processes in leaves only.
LEAF = "hkrunner-leaf"


def sweep(own: str, rmdir: Callable[[str], None]) -> None:
    """Remove the groups that no warden holds a lock on; one that still has processes stays."""
    for name in runs_in(own):
        try:
            fd = os.open(f"{own}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(f"{own}/{name}", rmdir)
        except OSError:
            continue  # its warden lives
        finally:
            os.close(fd)


def undivide(own: str, rmdir: Callable[[str], None], enabled: Collection[str] = ()) -> None:
    """Undo the division, unless another run is still in it: its limits would go with the controllers.

    `enabled`: the controllers to switch off if no process had to move to a leaf, at the top of the hierarchy.
    """
    leaf = f"{own}/{LEAF}"
    has_leaf = os.path.isdir(leaf)
    try:
        if len(runs_in(own)) > 0:
            return
        if has_leaf:
            enabled = words(f"{own}/cgroup.subtree_control")
        if enabled:
            write(f"{own}/cgroup.subtree_control", " ".join(f"-{name}" for name in enabled))
        if has_leaf:
            for pid in words(f"{leaf}/cgroup.procs"):
                write(f"{own}/cgroup.procs", pid)
            remove_tree(leaf, rmdir)
    except OSError:
        return  # only an empty group is left


def write(path: str, value: str) -> None:
    """Write the value to a file that the kernel has made. Raises OSError."""
    # Never creates a file: a limit in a file that the kernel did not make has no effect.
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode("ascii"))
    finally:
        os.close(fd)


def words(path: str) -> list[str]:
    """Return the words of a file; none if it cannot be read."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().split()
    except OSError:
        return []


def number(path: str) -> int | None:
    """Return the number in a file; None if there is none."""
    found = words(path)
    return int(found[0]) if found and found[0].isdigit() else None


def pairs(path: str) -> dict[str, int]:
    """Return the numbers in a file by their names."""
    found = words(path)
    return {name: int(value) for name, value in zip(found[::2], found[1::2], strict=False) if value.isdigit()}


def runs_in(own: str) -> list[str]:
    """Return the names of the groups of runs in this group."""
    return [name for name in os.listdir(own) if name.startswith("hkrunner-") and name != LEAF]


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Keep other wardens from dividing the same group meanwhile; they hold it for a millisecond."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def remove_tree(path: str, rmdir: Callable[[str], None]) -> bool:
    """Remove a group and the groups below it; their files go with them. True when it is gone."""
    try:
        below = [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
        for one in below:
            remove_tree(one, rmdir)
        rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
