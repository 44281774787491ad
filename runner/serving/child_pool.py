"""The children of one run: the one that serves, the spare, and those on their way out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from ...sandbox.parent.child_handle import Child, Listener
from ...sandbox.shared.entry import Location
from ...sandbox.shared.limits import thread_variables
from ...sandbox.shared.messages import PROTOCOL_VERSION, Setup
from ...sandbox.shared.outcome import Cause
from ..io.loop import Loop
from ..settings.settings import Settings

#: Takes a process that exists already as the child: (loop, listener, setup) -> its handle. May raise OSError.
Attach = Callable[[Loop, Listener, Setup], Child]


class Crew:
    """Starts children, and knows which of them is listened to."""

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        where: Location,
        env: dict[str, str],
        attach: Attach | None = None,
    ) -> None:
        """`env`: variables that every child gets in addition to the user's own.

        `attach`: with --in-process, takes the user's process as the only child; None: children are started.
        """
        self._loop = loop
        self._settings = settings
        self._where = where
        self._listener: Listener | None = None
        self._env = env
        self._attach = attach
        self.child: Child | None = None
        self._spare: Child | None = None
        self._leaving: set[Child] = set()
        #: Called when the last child is gone, once everybody was told to go.
        self.on_empty: Callable[[], None] | None = None

    def child_pid(self) -> int:
        """Return the pid of the child that serves; 0 when there is none."""
        return self.child.pid if self.child is not None else 0

    def begin(self) -> None:
        """Start the child that will serve before there is anybody to listen to it: what does so can be
        imported meanwhile, which takes as long as a child.

        The loop must not run before tell().
        """
        if self._attach is None:
            with contextlib.suppress(OSError):  # ready() meets the same trouble, and tells it
                self.child = self._start()

    def tell(self, listener: Listener) -> None:
        """Everything that becomes of the children is told to this listener."""
        self._listener = listener
        if self.child is not None:
            self.child.tell(listener)

    def ready(self) -> Child:
        """Return the child that serves: the one there is, the spare, or a new one.

        Raises OSError when the system has no process for us.
        """
        if self.child is None:
            self.child, self._spare = self._spare or self._start(), None
        return self.child

    def prepare_spare(self) -> None:
        """Have a second child ready, if that was asked for and the first one is."""
        if self._settings.spare and self._spare is None and self.child is not None:
            with contextlib.suppress(OSError):  # no process to be had: a spare is not worth a word
                self._spare = self._start()

    def _start(self) -> Child:
        settings = self._settings
        if self._attach is not None:
            assert self._listener is not None, "it is begun when it is made ready"
            return self._attach(self._loop, self._listener, self._setup(self._own_variables()))
        env = {**os.environ, **self._own_variables()}
        if settings.limits.enforced:
            env.update(thread_variables(settings.limits.cpu_cores, env))
        python_path = [one for one in env.pop("PYTHONPATH", "").split(os.pathsep) if one]
        folders = [self._where.folder]
        if settings.state_dir is not None:
            folders.append(settings.state_dir)
        child = Child(
            self._loop,
            self._listener,
            argv=[settings.python, "-u"],
            cwd=self._where.folder,
            env=env,
            setup=self._setup({}, python_path),
            limits=settings.limits,
            folders=folders,
        )
        if settings.limits.start_timeout_s is not None and settings.limits.enforced:
            self._loop.after(settings.limits.start_timeout_s, lambda: self._start_overdue(child))
        return child

    def _own_variables(self) -> dict[str, str]:
        return {**self._env, **self._settings.child_env}

    def _setup(self, env: dict[str, str], python_path: list[str] | None = None) -> Setup:
        where = self._where
        return Setup(
            version=PROTOCOL_VERSION,
            folder=where.folder,
            module=where.module,
            function=where.function,
            file=where.file,
            encoding=self._settings.encoding,
            python_path=[os.path.abspath(one) for one in python_path or []],
            returned_errors=self._settings.api_errors == "return",
            env=env,
        )

    def _start_overdue(self, child: Child) -> None:
        if not child.loaded:
            child.kill(Cause.START_TIMEOUT, f"{self._settings.limits.start_timeout_s:g} s")

    def abandon(self, cause: Cause) -> None:
        """Kill the child that serves, in the background; nobody listens to it any more.

        One that may not be killed is asked, and takes its next task when it has come back from the last.
        """
        if self.child is not None and not self.child.may_kill:
            self.child.stop(0, {"forceStop": True})
            return
        child, self.child = self.child, None
        if child is not None:
            self._leaving.add(child)
            child.kill(cause)

    def let_go(self, cause: Cause = Cause.STOPPED, *, ask: bool = False) -> None:
        """The child that serves takes no further task: it ends by itself (`ask`: when it is told to),
        and gets the grace for it."""
        child, self.child = self.child, None
        if child is not None:
            self._leaving.add(child)
            if ask:
                child.exit({"exitCode": 0})
            self._loop.after(self._settings.grace_s, lambda: child.kill(cause))

    def drop_spare(self) -> None:
        """End the spare."""
        child, self._spare = self._spare, None
        if child is not None:
            self._leaving.add(child)
            child.kill(Cause.RECYCLED)

    def gone(self, child: Child) -> bool:
        """A child is gone; True if it was the one that served."""
        if child is self.child:
            self.child = None
            return True
        if child is self._spare:
            self._spare = None
        self._leaving.discard(child)
        if self.empty and self.on_empty is not None:
            self.on_empty()
        return False

    @property
    def empty(self) -> bool:
        """No child is left."""
        return self.child is None and self._spare is None and not self._leaving
