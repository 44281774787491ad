"""Starts the children of a run: their interpreter, variables, limits, and what they are to load."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeVar

from ...sandbox.parent.child_handle import ChildListener
from ...sandbox.parent.thread_variables import thread_variables
from ...sandbox.parent.warded_child import WardedChild
from ...sandbox.shared.entry import Location
from ...sandbox.shared.message_format import PROTOCOL_VERSION
from ...sandbox.shared.messages import Setup
from ...sandbox.shared.outcome import Cause
from ..io.loop import Loop
from ..settings.settings import Settings

Handle = TypeVar("Handle", bound=WardedChild)


class ChildStarter:
    """Starts children of the same code with the same limits."""

    def __init__(self, loop: Loop, settings: Settings, where: Location, env: Mapping[str, str]) -> None:
        """`env`: variables that every child gets in addition to the user's own."""
        self._loop = loop
        self._settings = settings
        self._where = where
        #: Variables that a child gets in addition to those of this process.
        self.variables = {**env, **settings.code.variables}

    def setup(self, env: dict[str, str], python_path: list[str] | None = None) -> Setup:
        """Return what a child is told first. `env`: variables that it is to set itself."""
        where = self._where
        return Setup(
            version=PROTOCOL_VERSION,
            folder=where.folder,
            module=where.module,
            function=where.function,
            file=where.file,
            encoding=self._settings.serving.encoding,
            python_path=[os.path.abspath(one) for one in python_path or []],
            returned_errors=self._settings.serving.api_errors == "return",
            env=env,
        )

    def start(self, listener: ChildListener | None) -> WardedChild:
        """Start a child that serves one task at a time; raises OSError."""
        return self.start_as(WardedChild, listener)

    def start_as(
        self, handle: type[Handle], listener: ChildListener | None, *, is_pooled: bool = False
    ) -> Handle:
        """Start a child with a handle of this class; `is_pooled`: a worker of hkrunner.Pool."""
        settings = self._settings
        env = {**os.environ, **self.variables}
        # Python would go on to a prompt, and show the SystemExit of an orderly end.
        env.pop("PYTHONINSPECT", None)
        if settings.limits.enforced:
            env.update(thread_variables(settings.limits.cpu_cores, env))
        python_path = [one for one in env.pop("PYTHONPATH", "").split(os.pathsep) if one]
        folders = [self._where.folder]
        if settings.records.state_dir is not None:
            folders.append(settings.records.state_dir)
        child = handle(
            self._loop,
            listener,
            argv=[settings.code.python, "-u"],
            cwd=self._where.folder,
            env=env,
            setup=self.setup({}, python_path).replace(is_pooled=is_pooled),
            limits=settings.limits,
            folders=folders,
            temporary_folders=settings.code.temporary_folders,
        )
        if settings.limits.start_timeout_s is not None and settings.limits.enforced:
            self._loop.after(settings.limits.start_timeout_s, lambda: self._start_overdue(child))
        return child

    def _start_overdue(self, child: WardedChild) -> None:
        if not child.loaded:
            child.kill(Cause.START_TIMEOUT, f"{self._settings.limits.start_timeout_s:g} s")
