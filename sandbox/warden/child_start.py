"""Forks the child, and takes the steps between fork and exec, by which a forked process becomes the child."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from ..linux import kernel
from ..shared.isolation_policy import LEVELS
from ..shared.messages import Spawn
from ..shared.stop_signals import STOP_SIGNALS
from .confinement import Confinement

if TYPE_CHECKING:
    from ..isolation.namespace_init import NamespaceInit

#: What the warden ignores: the parent obeys these, and batch systems send some to all processes of a job.
IGNORED_SIGNALS = (*STOP_SIGNALS, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF)
_PROBLEM_MAX = 4000


class StartedChild(NamedTuple):
    """A child that runs, or the reason why not."""

    pid: int
    problem: str = ""  #: why it could not be executed
    status: int | None = None  #: its wait status, if it could not
    init: NamespaceInit | None = None  #: process 1 of its pid namespace, if it has one
    level: str = ""  #: of its isolation; "": it has none
    refused: tuple[str, ...] = ()  #: for each stronger level, what this machine refused
    possible: str = ""  #: a weaker level, which is not accepted, and would be possible

    @property
    def is_refused(self) -> bool:
        """Whether the machine cannot isolate the child as wanted."""
        return bool(self.problem and self.refused)


def start_child(
    spec: Spawn,
    fds: dict[str, int],
    keep: list[int],
    *,
    confinement: Confinement,
    on_fork: Callable[[int, int], None],
) -> StartedChild:
    """Fork and execute the child; isolated, if it is to be, at the first of the levels that is possible.

    `on_fork`: called with the child's pid, and that of process 1 of its pid namespace, 0 without one. Raises
    OSError when the system has no process.
    """
    isolation = spec.isolation
    if isolation is None:
        read, write = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _guarded(write, lambda: become_child(spec, fds, keep, confinement=confinement))
        os.close(write)
        on_fork(pid, 0)
        problem = _read_all(read)
        return StartedChild(pid, problem, os.waitpid(pid, 0)[1] if problem else None)
    refused: list[str] = []
    for level in isolation.levels:
        one = _start_isolated(level, spec, fds, keep, confinement)
        if not one.problem:
            on_fork(one.pid, one.init.pid if one.init is not None else 0)
        if not one.problem or not one.refused:
            return one._replace(refused=tuple(refused))
        refused += one.refused
    from ..isolation import trial

    weaker = [level for level in LEVELS if level not in isolation.levels]
    possible = next((level for level in weaker if not trial.why_not(level, isolation)), "")
    return one._replace(refused=tuple(refused), possible=possible)


def _start_isolated(
    level: str, spec: Spawn, fds: dict[str, int], keep: list[int], confinement: Confinement
) -> StartedChild:
    """Start the child at this level; a problem of the isolation is in `refused`, too."""
    # Imported here: a start without it must not take longer. And before entering the namespaces: within them
    # the user may have no right to read files of ours, or of Python's.
    import socket  # noqa: F401

    from ..isolation import enter, namespace_init

    isolation = spec.isolation
    assert isolation is not None, "the caller has looked"
    if isolation.targets:
        from ..isolation import pinholes  # noqa: F401
    read, write = os.pipe2(os.O_CLOEXEC)
    init = namespace_init.NamespaceInit() if level == "full" else None

    def become_isolated(parent: int) -> NoReturn:
        enter.restrict(level, isolation)
        _execute(spec, keep, parent)

    def first() -> NoReturn:
        warden = os.getppid()
        _arrange(fds, keep)
        confinement.enter(is_isolated=True)
        if level != "landlock":
            enter.enter_namespaces(level, isolation)
            if isolation.targets:
                enter.open_pinholes(isolation, fds["pinholes"])
        if init is not None:
            init.become_init()
        if level != "landlock":
            enter.enter_root(level, isolation)
        _set_variables(spec.env, level, isolation.temporary)
        if init is None:
            become_isolated(warden)
        init.run(lambda: _guarded(write, lambda: become_isolated(1)))

    pid = os.fork()
    if pid == 0:
        _guarded(write, first)
    os.close(write)
    status = init.adopt(pid) if init is not None else None
    problem = _read_all(read)
    if not problem and status is None:
        pid = pid if init is None else init.algorithm()
        return StartedChild(pid, init=init, level=level)
    if status is None:
        status = init.end() if init is not None else os.waitpid(pid, 0)[1]
    is_step, _, problem = problem.rpartition("\0")
    refused = (f"{level}: {problem}",) if is_step else ()
    return StartedChild(pid, problem or "it ended before it was executed", status, refused=refused)


def _guarded(error_to: int, act: Callable[[], NoReturn]) -> NoReturn:
    """Call `act` in a forked process; an error is written to the pipe."""
    try:
        act()
    except BaseException as error:  # noqa: BLE001 - a fork must not go on in the code of its parent
        # A step of the isolation is marked: another level may be possible.
        is_step = type(error).__name__ == "StepFailed"
        text = f"step\0{error}" if is_step else f"{type(error).__name__}: {error}"
        os.write(error_to, text.encode("utf-8", "replace")[:_PROBLEM_MAX])
    os._exit(127)


def _read_all(fd: int) -> str:
    """Return what is written until exec closes the other end."""
    told = b""
    while data := os.read(fd, _PROBLEM_MAX):
        told += data
    os.close(fd)
    return told.decode("utf-8", "replace")


def become_child(spec: Spawn, fds: dict[str, int], keep: list[int], *, confinement: Confinement) -> NoReturn:
    """Arrange descriptors, session and signals, then execute the child. Raises OSError."""
    warden = os.getppid()
    _arrange(fds, keep)
    confinement.enter()
    _execute(spec, keep, warden)


def _arrange(fds: dict[str, int], keep: list[int]) -> None:
    """Arrange session, signals and descriptors."""
    os.setsid()
    for number in (*IGNORED_SIGNALS, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # name_watch.py blocks SIGIO in the warden
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(fds["stdout"], 1)
    os.dup2(fds["stderr"], 2)
    for fd in fds.values():
        os.set_inheritable(fd, fd in keep)


def _set_variables(env: dict[str, str], level: str, temporary: str) -> None:
    """Name the temporary folder as the algorithm sees it at this level."""
    env["TMPDIR"] = temporary if level == "landlock" else "/tmp"
    env["HOME"] = f"{env['TMPDIR']}/.home"
    for name, folder in (("XDG_CACHE_HOME", ".cache"), ("MPLCONFIGDIR", ".matplotlib")):
        env[name] = f"{env['HOME']}/{folder}"


def _execute(spec: Spawn, keep: list[int], parent: int) -> NoReturn:
    os.chdir(spec.cwd)
    kernel.die_with_parent(parent)
    argv = [*spec.argv, *map(str, keep)]
    os.execve(argv[0], argv, spec.env)
