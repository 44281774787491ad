"""Runs the inputs as one job in a cluster, and follows jobs that were left there.

A thread talks to the cluster, since each request blocks; the loop prints, draws the status line and obeys
signals:

    thread: submit -> wait -> fetch results ----+            Ctrl-C: the loop interrupts the thread,
    loop:   status line <- progress, prints  <--+            which stops the job and ends
"""

from __future__ import annotations

import contextlib
import enum
import os
import threading
from collections.abc import Callable
from functools import partial

from ...boards.runs.job_record import JobRecord
from ..cluster.address import cluster_of
from ..cluster.api import ClusterApi
from ..cluster.job import ClusterJob
from ..cluster.job_answers import COMPLETED, JobEnd, JobProgress
from ..cluster.pipeline import BatchPipeline, batch_pipeline
from ..cluster.transport import Body, Interrupted
from ..console.status_line import StatusLine, can_be_drawn
from ..console.task_report import ProgressLog, TaskReport
from ..console.terminal import Output, wants_color
from ..errors import ClusterError, HkrunnerError, SettingsError
from ..io.loop import Loop
from ..io.standard_streams import fill_standard_streams
from ..prepare.code_name import is_described
from ..prepare.inputs import read_inputs
from ..prepare.prepare import place
from ..protocol.messages import printable
from ..protocol.result import Result
from ..settings.settings import Settings
from .cluster_boards import show_boards
from .local_run import HOLD_BACK
from .result_batches import batches
from .run import make_output, open_output_file, put_in_place, resume_garbage_collection
from .run_signals import obey_signals

#: Longest wait at the end for the interrupted thread, which may be connecting to a network that is down.
LEAVE_S = 0.5
#: Most characters of the cluster's reason for the end of a job; errors of tasks are printed with the tasks.
WORDS_MAX = 500


def run_in_cluster(settings: Settings) -> int:
    """Run the inputs in the cluster; return the exit status. Raises HkrunnerError before anything is sent."""
    _check_code(settings)
    local = settings.local_run
    pipeline = batch_pipeline(
        settings.cluster.algorithm, read_inputs(local.inputs, local.tasks, settings.code.cwd)
    )
    record = JobRecord(
        pipeline.name,
        str(settings.cluster.on),
        settings.cluster.algorithm,
        sum(map(len, pipeline.nodes.values())),
        pipeline.nodes,
    )
    return _run(settings, record, pipeline)


def _check_code(settings: Settings) -> None:
    """Raise SettingsError if a file was named that is not the code of the algorithm that would run."""
    descriptor, name = settings.code.descriptor, settings.cluster.algorithm
    if settings.code.entry is None or descriptor is None or descriptor.name != name:
        return  # --algorithm names another one
    if descriptor.env != "python":
        return  # its entry is no module
    with contextlib.ExitStack() as stack:
        where = place(settings, stack)
    if not is_described(settings, where):
        raise SettingsError(
            f"--on {settings.cluster.on} runs the algorithm {name}, whose code is {descriptor.entry} as"
            f" {os.path.basename(descriptor.file)} says, and not {where.shown}: leave the file out, or name"
            " another algorithm of the cluster with --algorithm"
        )


def follow_job(settings: Settings, record: JobRecord) -> int:
    """Print the results of a job once it has ended; return the exit status. Ctrl-C leaves it running."""
    return _run(settings, record, None)


def _run(settings: Settings, record: JobRecord, pipeline: BatchPipeline | None) -> int:
    fill_standard_streams()
    loop = Loop()
    file = None
    output = None
    try:
        file = open_output_file(settings)
        output = make_output(loop, settings, file)
        run = ClusterRun(loop, settings, output, record, None if pipeline is None else pipeline.body)
        obey_signals(loop, run.interrupt)
        run.begin()
        resume_garbage_collection()
        try:
            loop.run()
        finally:
            run.close()
        return max(run.report.status, put_in_place(file, output, run.report.status))
    finally:
        if output is not None:
            output.close()
        if file is not None:
            file.discard()
        loop.close()


class Phase(enum.Enum):
    """What the thread does, and so what Ctrl-C means."""

    CONNECTING = "nothing was submitted yet"
    SUBMITTING = "the request must not be cut off: its answer has the job's id"
    WAITING = "the job runs"
    FETCHING = "the job has ended"
    STOPPING = "Ctrl-C was pressed"


class ClusterRun:
    """One job, submitted or followed; report.status is the exit status at the end."""

    def __init__(
        self, loop: Loop, settings: Settings, output: Output, record: JobRecord, pipeline: Body | None
    ) -> None:
        """pipeline: what to submit; None: the job was submitted before. Raises HkrunnerError."""
        self._loop = loop
        self._settings = settings
        self._output = output
        self._record = record
        self._pipeline = pipeline
        self.report = TaskReport(settings, output)
        self._interrupted = threading.Event()
        #: Held while a request is aborted, so that the next request is not aborted instead.
        self._interrupting = threading.Lock()
        self._phase = Phase.CONNECTING if pipeline is not None else Phase.WAITING
        cluster = cluster_of(record.cluster, os.environ, settings.code.cwd)
        self._api = ClusterApi(cluster, on_trouble=self._post(output.say), sleep=self._pause)
        self._job = ClusterJob(self._api, record.name, record.nodes, record.job, pause=self._pause)
        self._thread = threading.Thread(target=self._run, name="hkrunner-cluster", daemon=True)
        self._status = 0  #: of the signal that ended the run
        self._progress_log = ProgressLog(output.say, loop.clock)
        self._last_progress = JobProgress(None, "")  #: the last one that was written as a line
        self._shown = f"{record.algorithm} on {record.cluster}"
        self._status_line: StatusLine | None = None
        if not settings.console.quiet and can_be_drawn(os.environ):
            self._status_line = StatusLine(
                loop,
                output,
                total=1,
                limit_bytes=None,
                samples=list,
                color=wants_color(settings.console.color, os.environ),
                code=self._shown,
            )
            self._status_line.begin(self._shown)

    def begin(self) -> None:
        """Start the thread; the loop is stopped at the end."""
        self._progress_log.begin()
        self._thread.start()

    def interrupt(self, status: int) -> None:
        """Stop a job that this command has submitted, and end; the second call ends at once."""
        self.report.note_status(status)
        if self._status:
            self._output.warn(f"■ left the job as it is: {self._how_to_follow()}")
            self._interrupted.set()
            self._api.abort()
            self._loop.stop()
            return
        self._status = status
        with self._interrupting:
            self._interrupted.set()
            if self._phase is not Phase.SUBMITTING:
                self._api.abort()
        if self._pipeline is not None:
            self._output.warn("■ stopping; Ctrl-C again ends at once, and leaves the job as it is")

    def close(self) -> None:
        """Remove the status line, and end the thread."""
        if self._status_line is not None:
            self._status_line.close()
        self._interrupted.set()
        self._api.abort()
        self._thread.join(LEAVE_S)

    # ---- in the thread

    def _run(self) -> None:
        try:
            self._run_job()
        except Interrupted:
            self._give_up()
        except HkrunnerError as error:
            self._post(self._failed)(error)
        except BaseException as error:
            self._post(self._broken)(error)
            raise
        finally:
            self._post(self._loop.stop)()

    def _run_job(self) -> None:
        if self._pipeline is not None:
            self._job.connect()
            self._phase = Phase.SUBMITTING
            self._check_interrupt()
            self._submit(self._pipeline)
            self._phase = Phase.WAITING
            self._check_interrupt()  # of Ctrl-C during the submission, which stops a detached job as well
            self._post(self._submitted)()
            if self._settings.cluster.detach:
                return
        self._check_interrupt()
        end = self._job.wait(self._post(self._progressed))
        self._save(status=end.status, took_s=end.took_s, error=end.error)
        self._phase = Phase.FETCHING
        self._check_interrupt()
        console = self._settings.console
        with_times = console.json or console.events
        for batch in batches(self._job.results(end, with_times=with_times)):
            printed = threading.Event()
            self._post(self._print)(batch, printed)
            while not printed.wait(0.2):  # a slow reader of stdout holds up the next ones
                self._check_interrupt()
        self._post(self._ended)(end)
        if self._settings.boards.board:
            self._show_boards()

    def _show_boards(self) -> None:
        status = show_boards(
            self._api,
            str(self._job.id),
            list(self._record.nodes),
            self._output,
            open_them=self._settings.boards.open,
            post=self._post,
            pause=self._pause,
        )
        self._post(self.report.note_status)(status)

    def _submit(self, pipeline: Body) -> None:
        """Record the job, then submit it; the record is removed if the cluster cannot have got the job."""
        self._save()
        try:
            self._job.submit(pipeline)
        except (HkrunnerError, Interrupted):
            if not self._job.may_be_submitted:
                self._record.remove(self._settings.records.state_dir)
            raise
        self._save(status="active")

    def _give_up(self) -> None:
        """After Ctrl-C: stop the job if this command has submitted it."""
        with self._interrupting:
            was, self._phase = self._phase, Phase.STOPPING
            self._interrupted.clear()
            self._api.resume()
        if self._pipeline is None or was is Phase.FETCHING:
            self._post(self._left)(was)
            return
        if not self._job.may_be_submitted:
            self._post(self._output.warn)("■ nothing was submitted")
            return
        try:
            is_stopped = self._job.stop()
        except Interrupted:
            return
        except HkrunnerError as error:
            self._post(self._failed)(error)
            self._post(self._left)(was)
            return
        if is_stopped:
            self._save(status="stopped")
        self._post(self._stopped)(is_stopped)

    def _pause(self, seconds: float) -> None:
        if self._interrupted.wait(seconds):
            raise Interrupted

    def _check_interrupt(self) -> None:
        if self._interrupted.is_set():
            raise Interrupted

    def _save(self, **changes: object) -> None:
        self._record.job = self._job.id
        for name, value in changes.items():
            setattr(self._record, name, value)
        try:
            self._record.save(self._settings.records.state_dir)
        except OSError as error:
            self._post(self._output.warn)(f"✘ the job's record cannot be written: {error}")

    def _post(self, function: Callable[..., object]) -> Callable[..., None]:
        """Return a function that any thread may call, to have the loop call `function`."""

        def post(*arguments: object) -> None:
            self._loop.post_from_thread(partial(_ignore_result, function, *arguments))

        return post

    # ---- in the loop

    def _submitted(self) -> None:
        job, record = self._job.id, self._record
        self._output.events.emit(
            "submitted", {"jobId": job, "pipelineName": record.name, "tasks": record.tasks}
        )
        tasks = "1 task" if record.tasks == 1 else f"{record.tasks:,} tasks"
        self._output.say(f"● job {job} on {record.cluster}: {tasks} of {record.algorithm}")
        if self._settings.cluster.detach:
            console = self._settings.console
            if not console.events:
                self._output.result(
                    b'{"jobId":"%s"}' % str(job).encode() if console.json else str(job).encode()
                )
            self._output.say(f"◌ {self._how_to_follow()}")

    def _progressed(self, progress: JobProgress) -> None:
        data = {"progress": progress.percent, "details": progress.details}
        self._output.events.emit("progress", data)
        if self._status_line is not None:
            self._status_line.progress(self._shown, progress.percent, progress.details)
        elif (
            progress.percent is not None
            and progress != self._last_progress
            and self._progress_log.progress(self._job.shown, data)
        ):
            # Only now: a job that waits for a pod from its first second on is news once a line is due.
            self._last_progress = progress

    def _print(self, batch: list[Result], printed: threading.Event) -> None:
        for result in batch:
            self.report.note_status(result.exit_status)
            self.report.print_result(result)
            if result.failure is not None:
                place = f"{result.node}, input {(result.position or 0) + 1}"
                self._output.warn(
                    f"✘ task {result.task} failed ({place}): {self.report.words(result.failure)}",
                    task=result.task,
                )
            self._output.events.result(result)
        self._let_go_on(printed)

    def _let_go_on(self, printed: threading.Event) -> None:
        out = self._output.out
        if out.broken:
            self.report.note_broken_stdout()
            self._loop.stop()
        elif out.waiting > HOLD_BACK:
            out.on_drained = partial(self._let_go_on, printed)
        else:
            printed.set()

    def _ended(self, end: JobEnd) -> None:
        took = "" if end.took_s is None else f" in {end.took_s:.2f} s"
        if end.status == COMPLETED:
            self._output.say(f"✔ job {self._job.id} completed{took}")
            return
        self.report.note_status(1 if end.status == "failed" else ClusterError.exit_status)
        # Without the error of one task, which was printed with that task.
        words = (end.error or "").partition(", error: ")[0].partition("\n")[0]
        reason = f": {printable(words, WORDS_MAX)}" if words else ""
        self._output.warn(f"✘ job {self._job.id} {end.status}{took}{reason}")

    def _stopped(self, is_stopped: bool) -> None:
        if is_stopped:
            self._output.warn(f"■ job {self._job.shown} stopped")
        elif self._job.id is None:
            self._output.warn(f"■ no answer to the submission yet, and no such job: {self._how_to_follow()}")
        else:
            self._output.warn(f"■ job {self._job.shown} was not running any more")

    def _left(self, was: Phase) -> None:
        state = "has ended" if was is Phase.FETCHING else "was left running"
        self._output.warn(f"■ job {self._job.shown} {state}: {self._how_to_follow()}")

    def _failed(self, error: HkrunnerError) -> None:
        self.report.note_status(error.exit_status)
        self._output.warn(f"hkrunner: {error}")
        if isinstance(error, ClusterError) and self._job.may_be_submitted:
            self._output.warn(f"  the job was not stopped: {self._how_to_follow()}")

    def _broken(self, error: BaseException) -> None:
        self.report.note_status(1)
        self._output.warn(f"hkrunner: {type(error).__name__}: {error}; {self._how_to_follow()}")

    def _how_to_follow(self) -> str:
        if self._settings.records.state_dir is None:
            return f"job {self._job.shown} is not recorded (--no-state)"
        return f"hkrunner runs follow {self._job.shown}"


def _ignore_result(function: Callable[..., object], *arguments: object) -> None:
    function(*arguments)
