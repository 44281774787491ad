"""What this machine provides: one line for each finding, with its remedy. Starts no process.

A finding is needed if no task can run without it, or no board can start in a complete installation;
the others are weaker protection, or known pitfalls. Checks are independent: one that fails on an unusual
machine reports that, and the others still run.
"""

from __future__ import annotations

import os
import platform
import resource
import socket
import tempfile
import time
from collections.abc import Iterator

from ...sandbox.linux import cgroup, kernel, landlock, procfs
from ...sandbox.shared.container_limits import child_memory_bytes, container_memory_bytes
from ...sandbox.shared.limits import MI, format_bytes, parse_memory
from ..settings.limit_options import OPTION_OF
from .doctor_finding import Check, Finding, Machine
from .doctor_packages import check_packages, check_python, check_tensorboard, numbers
from .doctor_sandbox import check_sandbox

#: Docker's default for /dev/shm, too small for PyTorch's data loaders and joblib.
SMALL_SHM_BYTES = 64 * MI
#: A Python program needs about this much to import numpy.
SMALL_CHILD_BYTES = 64 * MI
SMALL_DISK_BYTES = 256 * MI
FEW_FILES = 256
(_MEM_VARIABLE,) = OPTION_OF["memory_bytes"].env
#: The first Linux whose RLIMIT_DATA counts private mappings, as the memory brake needs it (setrlimit(2)).
BRAKE_SINCE = (4, 7)
#: A correct clock shows no earlier time: 2024-01-01.
EARLIEST = 1_704_067_200.0
#: A larger difference between a file's time and ours comes from a clock, not from slow I/O.
SKEW_S = 5.0
LOOPBACK = "127.0.0.1"


def examine(machine: Machine) -> list[Finding]:
    """Return all findings, in the order of CHECKS."""
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found.extend(check(machine))
        except Exception as error:  # noqa: BLE001 - an unusual machine can break any check
            name = check.__name__.removeprefix("check").strip("_").replace("_", " ")
            found.append(Finding(name, False, f"the check failed: {type(error).__name__}: {error}"))
    return found


def all_needed(findings: list[Finding]) -> bool:
    """Whether hkrunner and its boards work here."""
    return all(one.ok for one in findings if one.needed)


def summary(findings: list[Finding]) -> str:
    """Return the last line."""
    missing = [one.name for one in findings if one.needed and not one.ok]
    if missing:
        return f"needed, but missing: {', '.join(missing)}"
    others = sum(not one.ok for one in findings)
    optional = f"; {others} optional ◌" if others else ""
    return f"everything that is needed is there{optional}"


# ---- what the kernel allows


def _kernel(machine: Machine) -> Iterator[Finding]:
    proc = os.path.exists("/proc/self/stat")
    yield Finding("/proc", proc, "readable" if proc else "not mounted", "" if proc else _MOUNT, needed=True)
    try:
        kernel.become_subreaper()
        kernel.become_subreaper(False)
    except OSError as error:
        yield Finding("subreaper", False, str(error.strerror), _SECCOMP, needed=True)
    else:
        yield Finding("subreaper", True, "daemons of the algorithm are found and killed", needed=True)
    try:
        os.close(os.memfd_create("hkrunner-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        yield Finding("memfd", False, str(error.strerror), _SECCOMP, needed=True)
    else:
        yield Finding("memfd", True, "large inputs and results are passed in shared memory", needed=True)
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:  # the former: a Python built without it
        reason = getattr(error, "strerror", error)
        text = f"{reason}: boards and commands are waited for by polling, and --in-process fails"
        yield Finding(
            "pidfd", False, text, "use Linux 5.3 or newer, and a seccomp profile that allows pidfd_open"
        )
    else:
        yield Finding("pidfd", True, "the end of a process is noticed immediately")
    if procfs.has_children_files():
        yield Finding("process tree", True, "the kernel lists the children of a process")
    else:
        text = "no /proc/PID/task/TID/children: all processes are read instead, which costs CPU time"
        yield Finding("process tree", False, text, "use a kernel with CONFIG_PROC_CHILDREN")


_MOUNT = "mount it: mount -t proc proc /proc"
_SECCOMP = "use Linux 4.14 or newer, and a seccomp profile that allows it"


def _limits(machine: Machine) -> Iterator[Finding]:
    group = cgroup.find(root=machine.root)
    if isinstance(group, cgroup.Place):
        text = f"v2, delegated: the kernel enforces {', '.join(sorted(group.controllers))}"
        yield Finding("cgroup", True, text)
    else:
        text = f"{group.why}; memory is enforced by sampling and RLIMIT_DATA, CPU by SIGSTOP and SIGCONT"
        remedy = "with systemd: systemd-run --user --scope -p Delegate=yes hkrunner …"
        yield Finding("cgroup", False, text, remedy)
    yield _brake()
    abi = landlock.abi()
    if abi >= landlock.SCOPES_SINCE_ABI:
        yield Finding("landlock", True, f"ABI {abi}: the algorithm can only signal its own processes")
    else:
        has = f"ABI {abi} has no scopes" if abi else "not in this kernel, or disabled"
        text = f"{has}: an algorithm can signal other processes of this user"
        yield Finding(
            "landlock", False, text, "use Linux 6.12 or newer with Landlock, or run as a separate user"
        )
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = files != resource.RLIM_INFINITY and files < FEW_FILES
    remedy = "ulimit -n 1024" if few else ""
    yield Finding("open files", not few, f"{files if files >= 0 else 'unlimited'} per process", remedy)


def _brake() -> Finding:
    release = platform.release()
    try:
        own = resource.prlimit(os.getpid(), resource.RLIMIT_DATA)
        resource.prlimit(os.getpid(), resource.RLIMIT_DATA, own)
    except OSError as error:
        text = f"prlimit: {error.strerror}: at the limit the processes are killed, without a MemoryError"
        return Finding("memory brake", False, text, "use a seccomp profile that allows prlimit64")
    if numbers(release) < BRAKE_SINCE:
        text = f"RLIMIT_DATA of Linux {release} ignores private mappings: the processes are killed"
        return Finding("memory brake", False, text, "use Linux 4.7 or newer")
    return Finding("memory brake", True, "an allocation beyond --mem raises MemoryError (RLIMIT_DATA)")


def _container(machine: Machine) -> Iterator[Finding]:
    memory = container_memory_bytes(root=machine.root)
    if memory is None:
        yield Finding("container memory", True, "no limit; without --mem, memory is only measured")
    else:
        child = child_memory_bytes(memory)
        text = f"{format_bytes(memory)}; without --mem the algorithm gets {format_bytes(child)} of it"
        remedy = "give the container 256Mi or more" if child < SMALL_CHILD_BYTES else ""
        if (wanted := _memory_variable(machine)) > child:
            text += (
                f", and {_MEM_VARIABLE} allows it {format_bytes(wanted)}: the kernel may end hkrunner first"
            )
            remedy = remedy or f"set {_MEM_VARIABLE} to {child // MI}Mi, or give the container more memory"
        yield Finding("container memory", not remedy, text, remedy)
    yield _shm()


def _memory_variable(machine: Machine) -> int:
    """Return the limit that runs here get from a variable; 0 if none, or one that a run refuses."""
    try:
        return int(parse_memory(machine.environ.get(_MEM_VARIABLE, "")))
    except ValueError:
        return 0


def _shm() -> Finding:
    remedy = "docker run --shm-size=1g; in Kubernetes an emptyDir with medium: Memory on /dev/shm"
    try:
        size = os.statvfs("/dev/shm")
    except OSError as error:
        return Finding("/dev/shm", False, f"{error.strerror}: multiprocessing needs it", remedy)
    total = size.f_frsize * size.f_blocks
    if total <= SMALL_SHM_BYTES:
        text = f"{format_bytes(total)}, too small for data loaders and pools, which then die of SIGBUS"
        return Finding("/dev/shm", False, text, remedy)
    return Finding("/dev/shm", True, f"{format_bytes(total)}, {format_bytes(_free(size))} free")


def _free(size: os.statvfs_result) -> int:
    return size.f_frsize * size.f_bavail


# ---- surroundings


def _proxies(machine: Machine) -> Iterator[Finding]:
    environ = {name.lower(): value for name, value in machine.environ.items() if value}
    names = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "ws_proxy", "wss_proxy")
    proxies = [name for name in names if name in environ]
    if not proxies:
        yield Finding("proxy", True, "none set")
        return
    exempt = {one.strip().lstrip(".").lower() for one in environ.get("no_proxy", "").split(",")}
    shown = ", ".join(proxies)
    if "*" in exempt or {"localhost", LOOPBACK} <= exempt:
        yield Finding("proxy", True, f"{shown}; localhost is exempt")
        return
    text = f"{shown} is set without no_proxy=localhost: hkrunner and its boards bypass it, your code may not"
    yield Finding("proxy", False, text, f"export no_proxy=localhost,{LOOPBACK}")


def _loopback(machine: Machine) -> Iterator[Finding]:
    try:
        with (
            socket.create_server((LOOPBACK, 0)) as server,
            socket.create_connection(server.getsockname(), timeout=1),
        ):
            pass
    except OSError as error:
        text = f"no connection over {LOOPBACK}: {error.strerror or error}"
        yield Finding("loopback", False, text, "ip link set lo up", needed=True)
        return
    try:
        known = {one[4][0] for one in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}
    except OSError as error:
        text = f"{LOOPBACK} works, but localhost cannot be resolved: {error.strerror or error}"
        yield Finding("loopback", False, text, f"add '{LOOPBACK} localhost' to /etc/hosts")
        return
    if LOOPBACK in known:
        yield Finding(
            "loopback", True, f"{LOOPBACK} accepts connections, and localhost is {LOOPBACK}", needed=True
        )
    else:
        text = f"localhost is {', '.join(map(str, sorted(known)))}, not {LOOPBACK}"
        yield Finding("loopback", False, text, f"add '{LOOPBACK} localhost' to /etc/hosts")


def _state_folder(machine: Machine) -> Iterator[Finding]:
    """Check the folder, or the one it would be created in; it is not created."""
    folder = machine.state_dir
    while not os.path.lexists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    remedy = "use another one with --state-dir DIR, or write no records with --no-state"
    before = time.time()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".hkrunner-doctor-") as file:
            written = os.fstat(file.fileno()).st_mtime
        free = _free(os.statvfs(folder))
    except OSError as error:
        text = f"{machine.state_dir} cannot be written: {error.strerror}"
        yield Finding("state folder", False, text, remedy, needed=True)
        return
    text = f"{machine.state_dir} is writable, {format_bytes(free)} free"
    if free < SMALL_DISK_BYTES:
        yield Finding("state folder", False, text, f"free some space, or {remedy}")
    else:
        yield Finding("state folder", True, text, needed=True)
    yield _clock(before, written)


def _clock(now: float, written: float) -> Finding:
    shown = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(now))
    remedy = "set the clock (timedatectl set-ntp true)"
    if now < EARLIEST:
        text = f"{shown} is in the past: the times in records and boards will be wrong"
        return Finding("clock", False, text, remedy)
    if abs(written - now) > SKEW_S:
        text = f"{shown}, but new files in the state folder are dated {written - now:+.0f} s off"
        return Finding("clock", False, text, f"{remedy}, here or on the server of the volume")
    return Finding("clock", True, shown)


CHECKS: tuple[Check, ...] = (
    *(check_python, check_packages, check_tensorboard),
    *(_kernel, _limits, check_sandbox, _container),
    *(_proxies, _loopback, _state_folder),
)
