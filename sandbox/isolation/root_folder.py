"""Makes a root folder for the algorithm, which holds only what the algorithm may read and write.

Everything has the same path as outside, but /tmp, /var/tmp, /dev/shm and /dev are the algorithm's own. All is
read-only but these and the writable paths.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence

from ..shared.isolation_policy import Isolation, is_below
from .system_calls import (
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    mount,
    pivot_root,
    set_mount,
)

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
#: Links of /dev, to what is in /proc.
_DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
#: Folders of which the algorithm has its own.
_OWN = ("/tmp", "/var/tmp", "/dev/shm")
_HOSTS = "127.0.0.1\tlocalhost{}\n::1\tlocalhost ip6-localhost ip6-loopback\n"


class StepFailed(Exception):
    """A step of the isolation that this machine refuses: its name, and the error."""

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(f"{step}: {error.strerror or error}")
        self.step = step
        self.error = error


def make_root(isolation: Isolation, *, new_processes: bool) -> None:
    """Make the root folder and enter it, in this process's mount namespace. Raises StepFailed.

    `new_processes`: whether this process is in a new pid namespace, and gets a /proc of it.
    """
    root = isolation.new_root
    try:
        mount("none", "/", None, MS_REC | MS_PRIVATE)
        mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=4m")
    except OSError as error:
        raise StepFailed("the mount of an empty root folder", error) from None
    try:
        _make_devices(root)
        below_tmp = []
        for path in _places(isolation):
            if is_below(path, _OWN):
                below_tmp.append(path)
            else:
                _show(root, path, isolation)
        for source, place in zip(
            (isolation.temporary, isolation.temporary, isolation.shared_memory), _OWN, strict=True
        ):
            os.makedirs(root + place, exist_ok=True)
            mount(source, root + place, None, MS_BIND | MS_REC)
        for path in below_tmp:
            _show(root, path, isolation)
        if not isolation.network:
            _write_hosts(root, isolation.targets)
    except OSError as error:
        raise StepFailed(f"the mount of {error.filename or 'a folder'}", error) from None
    try:
        os.makedirs(f"{root}/proc", exist_ok=True)
        if new_processes:
            # While the old /proc is there: without one the kernel refuses a new one.
            mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        else:
            mount("/proc", f"{root}/proc", None, MS_BIND | MS_REC)
        if os.geteuid() == 0:
            _hide_what_root_alone_may_read(root)
    except OSError as error:
        raise StepFailed("the mount of /proc", error) from None
    try:
        set_mount(root, on=MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, recursive=True)
        for path in (*_OWN, *isolation.writable):
            if os.path.exists(root + path):
                set_mount(root + path, off=MOUNT_ATTR_RDONLY)
    except OSError as error:
        raise StepFailed("making the mounts read-only (mount_setattr)", error) from None
    try:
        pivot_root(root)
    except OSError as error:
        raise StepFailed("the change of the root folder (pivot_root)", error) from None


def _hide_what_root_alone_may_read(root: str) -> None:
    """Hide files of /proc about the whole machine, such as vmallocinfo: their owner is root outside, too."""
    made = f"{root}/.unreadable"
    os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0))
    with os.scandir(f"{root}/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                continue
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISREG(mode) and mode & stat.S_IRUSR and not mode & stat.S_IROTH:
                mount(made, entry.path, None, MS_BIND)
    os.unlink(made)


def _make_devices(root: str) -> None:
    os.mkdir(f"{root}/dev", 0o755)
    for name in DEVICES:
        if os.path.exists(f"/dev/{name}"):
            _bind(root, f"/dev/{name}")
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"{root}/dev/{name}")
    _make_terminals(root)


def _make_terminals(root: str) -> None:
    """Give the algorithm pseudo-terminals of its own, as pty.fork() needs; none where that is refused."""
    folder = f"{root}/dev/pts"
    os.mkdir(folder, 0o755)
    with contextlib.suppress(OSError):
        mount("devpts", folder, "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
        os.symlink("pts/ptmx", f"{root}/dev/ptmx")


def _bind(root: str, path: str) -> None:
    """Show the file or folder at its path in the new root; a link is copied."""
    try:
        facts = os.lstat(path)
    except OSError:
        return
    place = root + path
    if stat.S_ISLNK(facts.st_mode):
        if not os.path.lexists(place):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.symlink(os.readlink(path), place)
        return
    if stat.S_ISDIR(facts.st_mode):
        os.makedirs(place, exist_ok=True)
    elif not os.path.lexists(place):
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    try:
        mount(path, place, None, MS_BIND | MS_REC)
    except OSError as error:
        error.filename = path
        raise


def _places(isolation: Isolation) -> list[str]:
    """Return the paths to show or to hide, outer ones first.

    A readable path in another one is shown with it; a hidden path outside of all others needs nothing.
    """
    found: list[str] = []
    for path in sorted({*isolation.readable, *isolation.writable, *isolation.hidden}, key=len):
        # A writable one needs a mount of its own, which is not made read-only.
        if path in isolation.writable or is_below(path, found) == (path in isolation.hidden):
            found.append(path)
    return found


def _show(root: str, path: str, isolation: Isolation) -> None:
    if path in isolation.hidden and path not in isolation.writable:
        if os.path.isdir(root + path):
            mount("tmpfs", root + path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
    else:
        _bind(root, path)


def _write_hosts(root: str, targets: Sequence[str]) -> None:
    """Give it a hosts file of its own: without the machine's network, the machine's names are of no use."""
    made, place = f"{root}/.hosts", f"{root}/etc/hosts"
    found = ""
    if targets:
        from .pinholes import hosts_lines

        found = hosts_lines(targets)
    # Libraries look up the machine's own name to find out where to listen; a target of this name comes first.
    own = os.uname().nodename
    text = _HOSTS.format(f" {own}" if own and f"\t{own.lower()}\n" not in found else "") + found
    with open(made, "xb") as file:
        file.write(os.fsencode(text))  # the kernel takes any bytes as the name of a machine
    os.makedirs(f"{root}/etc", exist_ok=True)
    if os.path.lexists(place):  # the machine's, with --read /etc
        mount(made, place, None, MS_BIND)
        os.unlink(made)
    else:
        os.rename(made, place)
