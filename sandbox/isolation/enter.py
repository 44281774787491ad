"""Isolates the process between fork and exec, at one of three levels, with every process that it starts.

full      namespaces for users, mounts, IPC, network and processes; a root folder of its own; Landlock; a
          filter of system calls
ns        the same without a namespace for processes, where the machine allows no new /proc
landlock  Landlock and the filter alone, where it allows no namespaces

A step that the machine refuses raises StepFailed with its name. Then a weaker level is tried if one is
accepted; otherwise the algorithm is not started.
"""

from __future__ import annotations

import os

from ..linux import landlock
from ..shared.isolation_policy import Isolation, is_below
from . import call_filter, system_calls
from .root_folder import DEVICES, StepFailed, make_root


def enter_namespaces(level: str, isolation: Isolation) -> None:
    """Move this process to namespaces of its own, and its next child to a pid namespace at the level `full`.

    Raises StepFailed.
    """
    flags = system_calls.CLONE_NEWUSER | system_calls.CLONE_NEWNS | system_calls.CLONE_NEWIPC
    if not isolation.network:
        flags |= system_calls.CLONE_NEWNET
    if level == "full":
        flags |= system_calls.CLONE_NEWPID
    user, group = os.geteuid(), os.getegid()
    try:
        system_calls.unshare(flags)
    except OSError as error:
        raise StepFailed("new namespaces (unshare)", error) from None
    try:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    except OSError as error:
        raise StepFailed("the user of the new namespace (uid_map)", error) from None
    if not isolation.network:
        try:
            system_calls.bring_loopback_up()
        except OSError as error:
            raise StepFailed("the network interface lo", error) from None


def open_pinholes(isolation: Isolation, channel: int) -> None:
    """Make a listening socket for each target, and send them over the channel. Raises StepFailed."""
    import socket

    from . import pinholes

    try:
        listening = pinholes.listen(isolation.targets)
        with socket.socket(fileno=os.dup(channel)) as one:
            socket.send_fds(one, [bytes(listening)], [each.fileno() for each in listening.values()])
    except OSError as error:
        raise StepFailed("the listening sockets for --net", error) from None
    for each in listening.values():
        each.close()


def enter_root(level: str, isolation: Isolation) -> None:
    """Give this process a root folder of its own. Raises StepFailed."""
    make_root(isolation, new_processes=level == "full")


def restrict(level: str, isolation: Isolation) -> None:
    """Give up capabilities, rights on files and system calls, for good. Raises StepFailed."""
    if level == "landlock" and isolation.targets:
        raise StepFailed("--net HOST:PORT", OSError(0, "Landlock knows ports, but no hosts"))
    try:
        system_calls.drop_capabilities()
    except OSError as error:
        raise StepFailed("giving up the capabilities", error) from None
    abi = landlock.abi()
    if level == "landlock" and abi < landlock.LEAST_ABI:
        raise StepFailed("Landlock", OSError(0, f"its ABI is {abi}, {landlock.LEAST_ABI} is needed"))
    if abi >= landlock.LEAST_ABI:
        try:
            landlock.restrict(
                scopes=landlock.SCOPES if abi >= landlock.SCOPES_SINCE_ABI else 0,
                handled_fs=landlock.all_rights(abi),
                rules=_rules(level, isolation),
            )
        except OSError as error:
            raise StepFailed("Landlock", error) from None
    try:
        if not call_filter.is_known():
            raise OSError(0, f"there is none for {os.uname().machine}")
        system_calls.no_new_privileges()
        internet = isolation.network or level != "landlock"
        system_calls.install_filter(call_filter.build(internet=internet, own_processes=level == "full"))
    except OSError as error:
        raise StepFailed("the filter of system calls (seccomp)", error) from None


def _rules(level: str, isolation: Isolation) -> list[landlock.Rule]:
    device = landlock.READ_FILE | landlock.WRITE_FILE | landlock.IOCTL_DEV
    rules = [landlock.Rule(f"/dev/{name}", device) for name in DEVICES]
    writable = [*isolation.writable]
    if level == "landlock":
        readable, listed = _without_hidden(isolation)
        readable += ["/proc", "/dev/fd", "/dev/shm"]
        rules += [landlock.Rule(path, landlock.READ_DIR) for path in listed]
        writable += [isolation.temporary, "/dev/shm"]
    else:
        readable = ["/"]  # nothing else is there
        rules.append(landlock.Rule("/dev/pts", device))
        writable += ["/tmp", "/var/tmp", "/dev/shm"]
    rules += [landlock.Rule(path, landlock.READ) for path in readable]
    rules += [landlock.Rule(path, landlock.WRITE) for path in writable]
    return rules


def _without_hidden(isolation: Isolation) -> tuple[list[str], list[str]]:
    """Return the readable paths; instead of a folder with a hidden one in it, everything else in that folder.

    A rule of Landlock holds for a folder with all that is in it. Those folders are returned, too: they can
    only be listed, as an import does, and so can the hidden ones in them.
    """
    found = []
    listed = []
    waiting = list(isolation.readable)
    while waiting:
        path = waiting.pop()
        real = os.path.realpath(path)
        if is_below(real, isolation.hidden):
            continue
        if any(is_below(hidden, [real]) for hidden in isolation.hidden):
            listed.append(path)
            waiting += [os.path.join(path, name) for name in os.listdir(path)]
        else:
            found.append(path)
    return found, listed


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)
