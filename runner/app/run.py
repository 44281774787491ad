"""From Settings to an exit status: prepare the code, choose local run or serving, run the loop."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from ...boards.runs.store import Store
from ...sandbox.linux.kernel import hide_from_same_user
from ...sandbox.shared.entry import Location
from ..console.terminal import Output, wants_color
from ..errors import BoardFailed, HkrunnerError, SettingsError
from ..io.loop import Loop
from ..io.signals import signals_raise
from ..io.standard_streams import fill_standard_streams
from ..prepare.code_name import code_name
from ..prepare.prepare import prepare
from ..serving.child_pool import ChildPool
from ..serving.run_context import RunContext
from ..settings.limit_options import beyond_container
from ..settings.settings import Settings, WorkerSettings
from ..settings.worker_url import without_login
from .install_progress import install_progress
from .run_signals import hold_signals, obey_signals

# Other imports wait until the algorithm's process is starting.
if TYPE_CHECKING:
    from ...boards.runs.journal import Journal
    from ...boards.runs.layout import Layout
    from ..console.output_file import OutputFile
    from ..protocol.messages import Failure
    from ..protocol.result import Result
    from .board_alongside import BoardAlongside
    from .in_process import UserProcessAttachment
    from .retention import Retention

#: The longest wait for a board's address: TensorBoard's first import from a cold disk took 22 s.
BOARD_DEADLINE_S = 60.0
#: Open files for each process of --parallel: 9 measured, more while one is replaced.
OPEN_FILES_OF_A_PROCESS = 12


def run(settings: Settings) -> int:
    """Run what the settings say; return the exit status. Raises HkrunnerError before anything is started."""
    fill_standard_streams()
    _check_proc()
    with contextlib.ExitStack() as stack:
        if settings.local_run.in_process:
            from . import in_process

            with signals_raise():
                prepared = prepare(settings, os.environ, stack)  # without --install
            return in_process.run(*prepared)
        with contextlib.suppress(OSError):
            # The algorithm runs as the same user, and must not read our environment and memory.
            hide_from_same_user()
        progress = install_progress(settings)
        stack.enter_context(signals_raise())  # until a loop obeys them
        return run_with(*prepare(settings, os.environ, stack, progress=progress))


def _check_proc() -> None:
    """Raise HkrunnerError where /proc does not show all of this process's own namespace."""
    remedy = "hkrunner measures memory and CPU there: mount -t proc proc /proc"
    try:
        own = os.readlink("/proc/self")
    except OSError:
        raise HkrunnerError(f"/proc is not mounted; {remedy}") from None
    if own != str(os.getpid()):  # else other processes would be taken for the algorithm's
        raise HkrunnerError(f"/proc shows the processes of another pid namespace; {remedy}")
    if not os.path.exists("/proc/loadavg"):
        raise HkrunnerError(
            f"/proc shows nothing but processes (subset=pid, or systemd's ProcSubset=pid); {remedy}"
        )


def run_with(settings: Settings, where: Location, user_process: UserProcessAttachment | None = None) -> int:
    """Run this code; return the exit status. user_process: with --in-process, the one that runs the code."""
    file = open_output_file(settings, where.file)
    loop = Loop()
    output = make_output(loop, settings, file)
    store = None
    if settings.records.state_dir is not None:
        store = Store(
            settings.records.state_dir,
            # In a cluster the one folder that HKube's worker uploads, on a volume shared with it; in a local
            # run each task has a folder of its own below it.
            metrics_dir=None if settings.local_run.is_local else settings.records.metrics_dir,
            metrics_root=settings.records.metrics_dir if settings.local_run.is_local else None,
            logs_ahead=settings.local_run.is_local,
            journal=None if settings.local_run.is_local else partial(_journal, settings),
        )
    for note in settings.console.notes:
        output.say(f"◌ {note}")
    boards: BoardAlongside | None = None
    try:
        boards = _start_boards(loop, settings, where, output)
        run_it = _run_locally if settings.local_run.is_local else _serve
        status = run_it(RunContext(loop, settings, where, output, store), user_process)
        if boards is not None and settings.local_run.is_local:
            boards.wait(BOARD_DEADLINE_S)  # so that its address is shown even after a short run
        if boards is not None and boards.failed:
            status = max(status, BoardFailed.exit_status)
        return max(status, put_in_place(file, output, status))
    finally:
        if boards is not None:
            boards.close()
        if (
            settings.records.keep is not None
            and (retention := retention_of(loop, settings, output)) is not None
        ):
            retention.remove_surplus()
        output.close()
        if file is not None:
            file.discard()
        loop.close()


def _journal(settings: Settings, layout: Layout) -> Journal:
    """Return the journal of a run that serves a worker: most tasks are too small for a folder each."""
    from ...boards.runs.journal import Journal

    records = settings.records
    keep = records.keep if records.keep is not None else records.keep_own
    return Journal(layout, settings.task_encoding, keep=keep)


def open_output_file(settings: Settings, code: str = "") -> OutputFile | None:
    """Return the file of --output-file or None. Raises SettingsError, also for the code and its inputs.

    code: its file; of a --command it may be any file that the command names, also one that it writes.
    """
    asked = settings.console.output_file
    if asked is None:
        return None
    from ..console.output_file import OutputFile

    file, cwd = OutputFile(asked, settings.code.cwd), settings.code.cwd
    if not file.is_replaced:
        return file
    tasks = settings.local_run.tasks
    kept = {
        "the code": None if settings.code.argv else code,
        "the file of --tasks": None if tasks == "-" else tasks,
    }
    for what, path in kept.items():
        if path and file.path == os.path.realpath(os.path.join(cwd, os.path.expanduser(path))):
            file.discard()
            raise SettingsError(f"--output-file {asked}: this is {what}, which the results would replace")
    return file


def make_output(loop: Loop, settings: Settings, file: OutputFile | None = None) -> Output:
    """Return stdout and stderr as the settings want them; results go to `file` if there is one."""
    output = Output(
        loop,
        local=settings.local_run.is_local or settings.console.events,
        quiet=settings.console.quiet,
        verbose=settings.console.verbose,
        encoding=sys.stderr.encoding if sys.stderr is not None else "utf-8",
        color=wants_color(settings.console.color, os.environ),
        results=1 if file is None else file.fd,
    )
    if settings.console.events:
        from ..console.json_events import JsonEvents

        output.events = JsonEvents(output.out)
    return output


def put_in_place(file: OutputFile | None, output: Output, status: int) -> int:
    """Replace the output file by the results; return an exit status.

    A run that failed without any result leaves the old file unchanged.
    """
    if file is None or (status != 0 and output.out.is_fresh):
        return 0
    output.out.close()
    try:
        if output.out.problem is not None:
            raise output.out.problem
        file.commit()
    except OSError as error:
        output.warn(f"✘ --output-file: {error.strerror}; the file was not changed")
        return 1
    return 0


def _start_boards(loop: Loop, settings: Settings, where: Location, output: Output) -> BoardAlongside | None:
    """Start the board and the routes that were asked for; return None when neither was."""
    if not settings.boards.board and settings.boards.api_port is None:
        return None
    if settings.records.state_dir is None:
        raise SettingsError("--board and --api-port need the records of tasks: remove --no-state")
    from pathlib import Path

    from ...boards.targets import all_target, node_target
    from .board_alongside import BoardAlongside

    root = Path(settings.records.state_dir)
    boards = BoardAlongside(loop, output, root, detached=settings.local_run.is_local)
    if settings.boards.board:
        node = code_name(settings, where)
        target = node_target(root, "local", node) if settings.local_run.is_local else all_target(root)
        boards.start_board(target, port=settings.boards.board_port, open_it=settings.boards.open)
    if settings.boards.api_port is not None:
        boards.start_routes(settings.boards.api_port)
    return boards


def retention_of(
    loop: Loop, settings: Settings, output: Output, store: Store | None = None
) -> Retention | None:
    """Return what enforces --keep; None when every record is kept, or none is written."""
    most = settings.records.keep if settings.records.keep is not None else settings.records.keep_own
    if most is None or settings.records.state_dir is None:
        return None
    from .retention import Retention

    return Retention(loop, settings.records.state_dir, most, output, store)


def _run_locally(context: RunContext, user_process: UserProcessAttachment | None) -> int:
    from ..prepare.inputs import check_encoding, read_inputs

    settings = context.settings
    # All inputs are checked before the first task runs.
    inputs = list(read_inputs(settings.local_run.inputs, settings.local_run.tasks, settings.code.cwd))
    if not inputs:
        name = settings.local_run.tasks
        context.output.say(f"◌ no inputs in {'stdin' if name == '-' else name}: there is no task to run")
    if settings.serving.encoding != "json":
        check_encoding(inputs, settings.serving.encoding)
    processes = settings.local_run.processes(len(inputs))
    _tell_room(context, processes)
    if processes > 1:
        from ..settings.open_files import check_open_files  # late: a run of one process does not need it

        check_open_files(f"--parallel {processes} needs", processes, OPEN_FILES_OF_A_PROCESS)
    if settings.local_run.watch:
        return _run_watching(context, inputs)
    pool = _begin_child(context, user_process)
    from .local_run import LocalRun

    one = LocalRun(context, inputs, pool, processes=processes)
    obey_signals(context.loop, one.interrupt, user_process, child_pids=one.child_pids)
    try:
        one.begin()
        resume_garbage_collection()
        context.loop.run()
    finally:
        one.close()
    return one.exit_status


def _tell_room(context: RunContext, processes: int) -> None:
    """Say so if the memory limit is above what the container has left."""
    settings = context.settings
    note = beyond_container(settings.limits, settings.serving.storage, processes=processes)
    if note is not None:
        context.output.say(f"◌ {note}")


def _run_watching(context: RunContext, inputs: list[bytes]) -> int:
    from ..settings.from_options import settings_of
    from .watch import Watch

    option_values = context.settings.local_run.option_values
    with contextlib.ExitStack() as stack:

        def read_again() -> tuple[Settings, Location]:
            progress = install_progress(context.settings)
            return prepare(settings_of(option_values, os.environ), os.environ, stack, progress=progress)

        watch = Watch(context, inputs, read_again)
        obey_signals(context.loop, watch.interrupt, child_pids=watch.child_pids)
        resume_garbage_collection()
        return watch.run()


def run_worker(asked: WorkerSettings) -> int:
    """Stand in for HKube's worker; return the exit status."""
    from ..prepare.inputs import read_inputs
    from .standalone_worker import StandaloneWorker

    fill_standard_streams()
    settings = asked.settings
    tasks = None if settings.local_run.tasks == "-" else settings.local_run.tasks
    inputs = list(read_inputs(settings.local_run.inputs, tasks, settings.code.cwd))
    loop = Loop()
    output = make_output(loop, settings)
    store = Store(settings.records.state_dir) if settings.records.state_dir is not None else None
    try:
        worker = StandaloneWorker(loop, asked, output, store, inputs)
        obey_signals(loop, worker.interrupt)
        try:
            worker.begin()
            loop.run()
        finally:
            worker.close()
            if store is not None:
                store.close()
        return worker.report.status
    finally:
        output.close()
        loop.close()


def _begin_child(context: RunContext, user_process: UserProcessAttachment | None) -> ChildPool:
    hold_signals(context.loop)
    pool = context.child_pool(None if user_process is None else user_process.begin)
    pool.begin()
    return pool


def _serve(context: RunContext, user_process: UserProcessAttachment | None) -> int:
    loop, settings, where, output, store = context
    _tell_room(context, 1)
    pool = _begin_child(context, user_process)
    from ..console.status_line import LOADING_S
    from ..console.task_report import TaskReport
    from ..serving.supervisor import Hooks, Supervisor

    report = TaskReport(settings, output)

    def load_failed(failure: Failure) -> None:
        sign_of_life.cancel()
        output.warn(f"✘ {report.words(failure)}")
        if user_process is not None or failure.code == "SANDBOX_UNAVAILABLE":
            supervisor.shutdown(4 if user_process is not None else 2)
            return
        output.warn("  every task is answered with this error; loading is retried for each task")

    serving = settings.serving

    def given_up(reason: str) -> None:
        url = without_login(serving.url)
        output.warn(f"hkrunner: no worker at {url} within {serving.connect_timeout_s:.12g} s: {reason}")
        supervisor.shutdown(5)

    retention = retention_of(loop, settings, output, store)

    def ended(result: Result) -> None:
        output.end_lines()
        report.show_end(result)
        output.events.result(result)
        if retention is not None:
            retention.task_ended(result)  # a process that serves for weeks must not fill the disk

    def end_with_user_process() -> None:
        if not supervisor.ending:
            supervisor.shutdown(1)

    sign_of_life = loop.after(LOADING_S, lambda: output.say(f"◌ loading {where.shown} …"))
    if not os.isatty(2):
        sign_of_life.cancel()
    hooks = Hooks(
        on_result=ended,
        on_load_failed=load_failed,
        on_loaded=sign_of_life.cancel,
        on_given_up=given_up,
    )
    supervisor = Supervisor(context, hooks, pool)
    obey_signals(loop, supervisor.shutdown, user_process, child_pids=lambda: [pool.child_pid()])
    if user_process is not None:
        # No other process can take the next task.
        user_process.on_gone = lambda: loop.after(0, end_with_user_process)
    supervisor.preload()
    supervisor.connect(settings.serving.url)
    resume_garbage_collection()
    loop.run()
    return supervisor.exit_status


def resume_garbage_collection() -> None:
    """Collect garbage again, which entry_point.main() has paused; exclude everything imported so far."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
