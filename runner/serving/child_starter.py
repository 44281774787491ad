"""Starts the children of a run: their interpreter, variables, limits, and what they are to load."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from ...sandbox.parent.child_handle import ChildListener
from ...sandbox.parent.thread_variables import thread_variables
from ...sandbox.parent.warded_child import WardedChild
from ...sandbox.shared.entry import Location
from ...sandbox.shared.isolation_policy import Isolation, hints_of
from ...sandbox.shared.message_format import PROTOCOL_VERSION
from ...sandbox.shared.messages import Setup
from ...sandbox.shared.outcome import Cause
from ..io.loop import Loop
from ..settings.cluster_options import SECRET_VARIABLES
from ..settings.settings import Settings

if TYPE_CHECKING:
    from ...sandbox.parent.pinhole_forwarder import PinholeForwarder
    from ...sandbox.parent.private_folders import PrivateFolders

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
        self._reported: set[str] = set()  #: warnings already shown about messages that a program may not send

    def setup(
        self,
        env: dict[str, str],
        python_path: list[str] | None = None,
        isolation: Isolation | None = None,
    ) -> Setup:
        """Return what a child is told first. `env`: variables that it is to set itself."""
        where = self._where
        return Setup(
            version=PROTOCOL_VERSION,
            folder=where.folder,
            module=where.module,
            function=where.function,
            file=where.file,
            encoding=self._settings.task_encoding,
            python_path=[os.path.abspath(one) for one in python_path or []],
            returned_errors=self._settings.serving.api_errors == "return",
            env=env,
            isolation=None if isolation is None else hints_of(isolation),
            is_unlimited=self._settings.serving.storage is not None,
        )

    def start(self, listener: ChildListener | None) -> WardedChild:
        """Start a child that serves one task at a time; raises OSError."""
        if not self._settings.code.argv:
            return self.start_as(WardedChild, listener)
        from ..program.start import start_program  # late: most algorithms are in Python

        settings, env = self._settings, self._environment()
        if settings.serving.stream_port is not None:
            from ..streaming.stream_settings import variables_of

            env.update(variables_of(settings.serving.stream_port, os.environ))
        child = start_program(
            self._loop,
            listener,
            command=settings.code.argv,
            cwd=self._where.folder,
            env=env,
            encoding=settings.task_encoding,
            limits=settings.limits,
            folders=self._folders(),
            temporary_folders=settings.code.temporary_folders,
            reported=self._reported,
            is_unlimited=settings.serving.storage is not None,
        )
        self._limit_start(child)
        return child

    def start_as(
        self, handle: type[Handle], listener: ChildListener | None, *, is_pooled: bool = False
    ) -> Handle:
        """Start a child with a handle of this class; `is_pooled`: a worker of hkrunner.Pool."""
        settings, env = self._settings, self._environment()
        private, isolation = self._isolation(env)
        forwarder: PinholeForwarder | None = None
        python_path = [one for one in env.pop("PYTHONPATH", "").split(os.pathsep) if one]
        try:
            if isolation is not None and isolation.targets:
                from ...sandbox.parent.pinhole_forwarder import PinholeForwarder  # late: most have none

                forwarder = PinholeForwarder(isolation.targets)
            child = handle(
                self._loop,
                listener,
                argv=[settings.code.python, "-u"],
                cwd=self._where.folder,
                env=env,
                setup=self.setup({}, python_path, isolation).replace(is_pooled=is_pooled),
                limits=settings.limits,
                folders=[*self._folders(), *([] if private is None else [private.temporary])],
                temporary_folders=settings.code.temporary_folders,
                isolation=isolation,
                private=private,
                forwarder=forwarder,
            )
        except BaseException:
            if forwarder is not None:
                forwarder.end()
            if private is not None:
                private.remove()
            raise
        self._limit_start(child)
        return child

    def _environment(self) -> dict[str, str]:
        inherited: Mapping[str, str] = os.environ
        if self._settings.sandbox is not None:
            from ..prepare.sandbox_policy import environment_of  # late: most runs have none

            inherited = environment_of(os.environ)
        without_secrets = {name: value for name, value in inherited.items() if name not in SECRET_VARIABLES}
        env = {**without_secrets, **self.variables}
        # Python would go on to a prompt, and show the SystemExit of an orderly end.
        env.pop("PYTHONINSPECT", None)
        if self._settings.limits.enforced:
            env.update(thread_variables(self._settings.limits.cpu_cores, env))
        return env

    def _folders(self) -> list[str]:
        """Return what the disk limit counts."""
        state_dir = self._settings.records.state_dir
        return [self._where.folder, *([] if state_dir is None else [state_dir])]

    def _limit_start(self, child: WardedChild) -> None:
        limits = self._settings.limits
        if limits.start_timeout_s is not None and limits.enforced:
            self._loop.after(limits.start_timeout_s, lambda: self._start_overdue(child))

    def _isolation(self, env: Mapping[str, str]) -> tuple[PrivateFolders | None, Isolation | None]:
        """Return the folders of the next child and what it may do; None, None: what its user may do."""
        settings = self._settings
        if settings.sandbox is None:
            return None, None
        from ...sandbox.parent.private_folders import PrivateFolders  # late: most runs have none
        from ..prepare.sandbox_policy import isolation_of

        boxes = None
        try:
            if settings.records.state_dir is not None:
                boxes = f"{settings.records.state_dir}/boxes"
            private = PrivateFolders(os.environ.get("TMPDIR") or "/tmp", boxes)
        except OSError as error:
            raise OSError(
                error.errno, f"no folder of its own for it: {error} (TMPDIR names another place)"
            ) from None
        isolation = isolation_of(
            settings,
            self._where,
            env,
            temporary=private.temporary,
            shared_memory=private.shared_memory,
            new_root=private.new_root,
            records=private.records,
        )
        return private, isolation

    def _start_overdue(self, child: WardedChild) -> None:
        if not child.loaded:
            child.kill(Cause.START_TIMEOUT, f"{self._settings.limits.start_timeout_s:.12g} s")
