"""From Settings to an exit status: prepare the code, choose local run or serving, run the loop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from ..boards.store import Store
from ..sandbox.entry import Location
from .loop import Loop
from .messages import Failure
from .output import Output
from .prepare import prepare
from .settings import Settings
from .supervisor import Hooks, Supervisor


def run(settings: Settings) -> int:
    """Do what was asked; return the exit status. Raises HkrunnerError before anything is started."""
    _fill_standard_streams()
    with contextlib.ExitStack() as stack:
        settings, where = prepare(settings, os.environ, stack)
        return _run(settings, where)


def _run(settings: Settings, where: Location) -> int:
    loop = Loop()
    output = Output(
        loop,
        local=settings.local,
        quiet=settings.quiet,
        verbose=settings.verbose,
        encoding=sys.stderr.encoding if sys.stderr is not None else "utf-8",
    )
    store = None
    if settings.state_dir is not None:
        # Set for us: the volume a cluster shares between us and HKube's worker.
        shared = os.environ.get("ALGO_METRICS_DIR")
        store = Store(Path(settings.state_dir), metrics_dir=Path(shared) if shared else None)
    for note in settings.notes:
        output.warn(f"◌ {note}")
    try:
        if settings.local:
            return _run_locally(loop, settings, where, output, store)
        return _serve(loop, settings, where, output, store)
    finally:
        output.close()
        loop.close()


def _run_locally(loop: Loop, settings: Settings, where: Location, output: Output, store: Store | None) -> int:
    from .local.inputs import read_inputs
    from .local.run import LocalRun

    # All inputs are checked before the first task runs.
    inputs = list(read_inputs(settings.inputs, settings.tasks, settings.cwd))
    one = LocalRun(loop, settings, where, output, store, iter(inputs))
    obey_signals(loop, one.interrupt)
    try:
        one.begin()
        loop.run()
    finally:
        one.close()
    return max(one.status, one.supervisor.exit_status)


def _serve(loop: Loop, settings: Settings, where: Location, output: Output, store: Store | None) -> int:
    def load_failed(failure: Failure) -> None:
        output.warn(f"✘ {failure.message}")
        output.warn("  every task is answered with this until it loads; it is tried again for each")

    def given_up(reason: str) -> None:
        output.warn(
            f"hkrunner: no worker at {settings.url} within {settings.connect_timeout_s:g} s: {reason}"
        )
        supervisor.shutdown(5)

    hooks = Hooks(on_load_failed=load_failed, on_given_up=given_up)
    supervisor = Supervisor(loop, settings, where, output, store, hooks)
    obey_signals(loop, supervisor.shutdown)
    supervisor.preload()
    supervisor.connect(settings.url)
    loop.run()
    return supervisor.exit_status


def obey_signals(loop: Loop, shutdown: Callable[[int], None]) -> None:
    """The first one ends in order, the second kills at once."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.on_signal(number, lambda number=number: shutdown(128 + number))  # type: ignore[misc]


def _fill_standard_streams() -> None:
    """A descriptor 0, 1 or 2 that was closed when we were started would be given to a socket of ours."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
