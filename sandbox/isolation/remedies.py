"""Says what this machine cannot provide of a level, why, and what to do about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from ..linux import landlock
from ..shared.isolation_policy import LEVELS, NOT_PREVENTED

_APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
#: The limits on namespaces of each kind, below user. of sysctl; unshare() fails with ENOSPC at such a limit.
_LIMITS = [f"max_{kind}_namespaces" for kind in ("user", "mnt", "ipc", "net", "pid")]
_IN_A_CONTAINER = "in a container, a seccomp profile that allows unshare (docker: --security-opt seccomp=…)"


def unavailable(refused: Sequence[str], possible: str) -> str:
    """Return the sentence for a sandbox that cannot be made.

    `refused`: what was refused, for each level that was accepted. `possible`: a weaker one that would do.
    """
    text = "; ".join(refused)
    remedy = remedy_of(refused[0] if refused else "")
    if remedy:
        text += f". Needed: {remedy}"
    if possible:
        text += f". The level {possible} would start: --sandbox-level {possible}"
    else:
        text += ". No weaker level would start either"
    return text


def remedy_of(refused: str, root: str = "/") -> str:
    """Return what lets this machine do what it has refused; "" if that is not known."""
    level, _, step = refused.partition(": ")
    if step.startswith("new namespaces"):
        none = [f"user.{name}" for name in _LIMITS if _read(root, f"/proc/sys/user/{name}") == "0"]
        if none:
            return f"sysctl {' and '.join(none)} above 0"
        if step.endswith(os.strerror(errno.ENOSPC)):
            return f"a higher sysctl {', '.join(f'user.{name}' for name in _LIMITS)}: one limit is reached"
        return f"user namespaces: sysctl kernel.unprivileged_userns_clone=1; {_IN_A_CONTAINER}"
    if step.startswith("the mount of /proc"):
        return (
            "a /proc of which nothing is masked (docker: --security-opt systempaths=unconfined; Kubernetes:"
            " procMount: Unmasked)"
        )
    if step.startswith(("the mount", "the user of", "the network", "the change of the root")):
        if _read(root, _APPARMOR) == "1":
            return (
                "an AppArmor profile for Python that allows userns, or sysctl"
                " kernel.apparmor_restrict_unprivileged_userns=0"
            )
        return f"the right to mount in a user namespace; {_IN_A_CONTAINER}"
    if step.startswith("making the mounts read-only"):
        is_forbidden = step.endswith(os.strerror(errno.EPERM))
        return _IN_A_CONTAINER.replace("unshare", "mount_setattr") if is_forbidden else "Linux 5.12 or newer"
    if step.startswith("--net"):
        return "one of the levels full and ns, or --net all"
    if step.startswith("Landlock"):
        return "Linux 5.19 or newer, with landlock among its security modules (lsm=…)"
    if step.startswith("the filter"):
        return "seccomp, on x86_64 or aarch64"
    return "" if level in LEVELS else step


def not_prevented(level: str, abi: int, *, network: bool) -> list[str]:
    """Return what the algorithm can do at this level on a kernel with this ABI of Landlock; 0: it has none.

    `network`: whether it may use the machine's network.
    """
    found = [NOT_PREVENTED[level]] if NOT_PREVENTED[level] else []
    if abi < landlock.SCOPES_SINCE_ABI and level != "full":
        found.append("the algorithm can signal your other processes (Linux 6.12 can prevent it)")
    if abi < landlock.SCOPES_SINCE_ABI and (level == "landlock" or network):
        found.append("the algorithm can connect to abstract Unix sockets (Linux 6.12 can prevent it)")
    if abi < landlock.TRUNCATE_SINCE_ABI and level == "landlock":
        found.append("the algorithm can empty files that you may write to (Linux 6.2 can prevent it)")
    if abi < landlock.LEAST_ABI and level != "landlock":
        found.append(
            "what an error in the namespaces opens: this kernel has no Landlock as a second barrier"
            " (Linux 5.19 has it)"
        )
    return found


def _read(root: str, path: str) -> str:
    try:
        with open(os.path.join(root, path.lstrip("/")), encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
