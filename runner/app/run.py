"""From Settings to an exit status: prepare the code, choose local run or serving, run the loop."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...boards.runs.store import Store
from ...sandbox.linux.kernel import hide_from_same_user
from ...sandbox.shared.entry import Location
from ..console.terminal import Output, wants_color
from ..errors import BoardFailed, SettingsError
from ..io.loop import Loop
from ..io.standard_streams import fill_standard_streams
from ..prepare.prepare import prepare
from ..serving.child_pool import Crew
from ..settings.settings import Settings, WorkerSettings

# The rest is imported when the algorithm's process is under way.
if TYPE_CHECKING:
    from ..console.output_file import OutputFile
    from ..protocol.messages import Failure
    from ..protocol.result import Result
    from .board_alongside import Beside
    from .in_process import HostSide
    from .retention import Keeper

#: A board that has not answered by then will not: TensorBoard's first import from a cold disk took 22 s.
BOARD_DEADLINE_S = 60.0


def run(settings: Settings) -> int:
    """Do what was asked; return the exit status. Raises HkrunnerError before anything is started."""
    fill_standard_streams()
    with contextlib.ExitStack() as stack:
        if settings.in_process:
            from . import in_process

            return in_process.run(*prepare(settings, os.environ, stack))
        with contextlib.suppress(OSError):
            # The algorithm runs as the same user: our environment and memory are none of its business.
            hide_from_same_user()
        return run_with(*prepare(settings, os.environ, stack))


def run_with(settings: Settings, where: Location, host: HostSide | None = None) -> int:
    """Run this code; return the exit status. `host`: with --in-process, the process that runs the code."""
    file = _output_file(settings)
    loop = Loop()
    output = _output(loop, settings, file)
    store = None
    if settings.state_dir is not None:
        # In a cluster: the volume that is shared between us and HKube's worker.
        store = Store(
            settings.state_dir,
            # In a cluster the one folder that HKube's worker uploads; in a local run the tasks' own go there.
            metrics_dir=None if settings.local else settings.metrics_dir,
            metrics_root=settings.metrics_dir if settings.local else None,
            logs_ahead=settings.local,
        )
    for note in settings.notes:
        output.say(f"◌ {note}")
    beside = _start_beside(loop, settings, where, output)
    try:
        run_it = _run_locally if settings.local else _serve
        status = run_it(loop, settings, where, output, store, host)
        if beside is not None and settings.local:
            beside.wait(BOARD_DEADLINE_S)  # so that its address is told even after a short run
        if beside is not None and beside.failed:
            status = max(status, BoardFailed.exit_status)
        return max(status, _put_in_place(file, output, status))
    finally:
        if beside is not None:
            beside.close()
        if settings.keep is not None and (keeper := _keeper(loop, settings, output)) is not None:
            keeper.look_at_all()
        output.close()
        if file is not None:
            file.discard()
        loop.close()


def _output_file(settings: Settings) -> OutputFile | None:
    if settings.output_file is None:
        return None
    from ..console.output_file import OutputFile

    return OutputFile(settings.output_file, settings.cwd)


def _output(loop: Loop, settings: Settings, file: OutputFile | None = None) -> Output:
    output = Output(
        loop,
        local=settings.local or settings.events,
        quiet=settings.quiet,
        verbose=settings.verbose,
        encoding=sys.stderr.encoding if sys.stderr is not None else "utf-8",
        color=wants_color(settings.color, os.environ),
        results=1 if file is None else file.fd,
    )
    if settings.events:
        from ..console.json_events import JsonEvents

        output.events = JsonEvents(output.out)
    return output


def _put_in_place(file: OutputFile | None, output: Output, status: int) -> int:
    """Put the results where they were asked for; a run that failed without any leaves what was there.

    Returns the exit status.
    """
    if file is None or (status != 0 and output.out.is_fresh):
        return 0
    output.out.close()
    try:
        if output.out.problem is not None:
            raise output.out.problem
        file.commit()
    except OSError as error:
        output.warn(f"✘ --output-file: {error.strerror}; it is as it was")
        return 1
    return 0


def _start_beside(loop: Loop, settings: Settings, where: Location, output: Output) -> Beside | None:
    """Start the board and the routes that were asked for; None when neither was."""
    if not settings.board and settings.api_port is None:
        return None
    if settings.state_dir is None:
        raise SettingsError("--board and --api-port show what is kept of tasks: leave --no-state out")
    from pathlib import Path

    from ...boards.targets import all_target, node_target
    from .board_alongside import Beside

    root = Path(settings.state_dir)
    beside = Beside(loop, output, root, detached=settings.local)
    if settings.board:
        node = os.path.splitext(os.path.basename(where.shown))[0]
        target = node_target(root, "local", node) if settings.local else all_target(root)
        beside.start_board(target, port=settings.board_port, open_it=settings.open)
    if settings.api_port is not None:
        beside.start_routes(settings.api_port)
    return beside


def _keeper(loop: Loop, settings: Settings, output: Output) -> Keeper | None:
    """Who sees to --keep; None when all is kept, or nothing."""
    most = settings.keep if settings.keep is not None else settings.keep_own
    if most is None or settings.state_dir is None:
        return None
    from .retention import Keeper

    return Keeper(loop, settings.state_dir, most, output)


def _run_locally(
    loop: Loop,
    settings: Settings,
    where: Location,
    output: Output,
    store: Store | None,
    host: HostSide | None,
) -> int:
    from ..prepare.inputs import check_encoding, read_inputs

    # All inputs are checked before the first task runs.
    inputs = list(read_inputs(settings.inputs, settings.tasks, settings.cwd))
    if settings.encoding != "json":
        check_encoding(inputs, settings.encoding)
    if settings.watch:
        return _run_watching(loop, settings, where, output, store, inputs)
    crew = _begin_child(loop, settings, where, store, host)
    from .local_run import LocalRun

    one = LocalRun(loop, settings, where, output, store, iter(inputs), crew)
    obey_signals(loop, one.interrupt, host)
    try:
        one.begin()
        settle()
        loop.run()
    finally:
        one.close()
    return max(one.report.status, one.supervisor.exit_status)


def _run_watching(
    loop: Loop, settings: Settings, where: Location, output: Output, store: Store | None, inputs: list[bytes]
) -> int:
    from .watch import Watch

    def make_store() -> Store | None:
        # Each run closes its own.
        return None if store is None else Store(store.root_text, metrics_root=store.metrics_root)

    with contextlib.ExitStack() as stack:

        def read_again() -> tuple[Settings, Location]:
            assert settings.read_again is not None, "--watch has set it"
            return prepare(settings.read_again(), os.environ, stack)

        watch = Watch(loop, settings, where, output, make_store, inputs, read_again)
        obey_signals(loop, watch.interrupt)
        settle()
        return watch.run()


def run_worker(asked: WorkerSettings) -> int:
    """Be HKube's worker for whoever connects; return the exit status."""
    from ..prepare.inputs import read_inputs
    from .standalone_worker import Alone

    fill_standard_streams()
    settings = asked.settings
    tasks = None if settings.tasks == "-" else settings.tasks
    inputs = list(read_inputs(settings.inputs, tasks, settings.cwd))
    loop = Loop()
    output = _output(loop, settings)
    store = Store(settings.state_dir) if settings.state_dir is not None else None
    try:
        alone = Alone(loop, asked, output, store, inputs)
        obey_signals(loop, alone.interrupt)
        try:
            alone.begin()
            loop.run()
        finally:
            alone.close()
            if store is not None:
                store.close()
        return alone.report.status
    finally:
        output.close()
        loop.close()


def _begin_child(
    loop: Loop, settings: Settings, where: Location, store: Store | None, host: HostSide | None
) -> Crew:
    attach = None if host is None else host.begin
    crew = Crew(loop, settings, where, store.environment() if store is not None else {}, attach)
    crew.begin()
    return crew


def _serve(
    loop: Loop,
    settings: Settings,
    where: Location,
    output: Output,
    store: Store | None,
    host: HostSide | None,
) -> int:
    crew = _begin_child(loop, settings, where, store, host)
    from ..console.task_report import Report
    from ..serving.supervisor import Hooks, Supervisor

    report = Report(settings, output)

    def load_failed(failure: Failure) -> None:
        output.warn(f"✘ {report.words(failure)}")
        if host is not None:
            supervisor.shutdown(4)
            return
        output.warn("  every task is answered with this until it loads; it is tried again for each")

    def given_up(reason: str) -> None:
        output.warn(
            f"hkrunner: no worker at {settings.url} within {settings.connect_timeout_s:g} s: {reason}"
        )
        supervisor.shutdown(5)

    keeper = _keeper(loop, settings, output)

    def ended(result: Result) -> None:
        report.tell(result)
        output.events.result(result)
        if keeper is not None:
            keeper.ended(result)  # one that serves for weeks must not fill its disk

    def end_with_it() -> None:
        if not supervisor.ending:
            supervisor.shutdown(1)

    hooks = Hooks(on_result=ended, on_load_failed=load_failed, on_given_up=given_up)
    supervisor = Supervisor(loop, settings, where, output, store, hooks, crew)
    obey_signals(loop, supervisor.shutdown, host)
    if host is not None:
        # There is no other process for the next task.
        host.on_gone = lambda: loop.after(0, end_with_it)
    supervisor.preload()
    supervisor.connect(settings.url)
    settle()
    loop.run()
    return supervisor.exit_status


def settle() -> None:
    """Have garbage collected again, which rested since command.main(); never among what was imported."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def obey_signals(loop: Loop, shutdown: Callable[[int], None], host: HostSide | None = None) -> None:
    """The first one ends in order, the second kills at once; what --in-process passes on counts as one."""
    if host is not None:
        host.interrupt = shutdown
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.on_signal(number, lambda number=number: shutdown(128 + number))  # type: ignore[misc]
