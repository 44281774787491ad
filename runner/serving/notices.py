"""What serving says on the terminal and as JSON events. It decides only which lines are worth saying."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...boards.runs.task_ids import TaskIds
from ...sandbox.shared.messages import Protection
from ...sandbox.shared.outcome import Cause, Exit, left_behind, place_of, report
from ..console.event_sink import EventSink
from ..console.terminal import Output
from ..protocol.messages import printable
from ..protocol.task_state import Event, State
from ..settings.settings import NO_LIMITS, Settings
from ..settings.worker_url import without_login

#: Suppress "waiting for an HKube worker" for this long while the code loads.
LOADING_S = 3.0
#: A shorter grace may be over before a process that ends in order has ended.
ORDERLY_END_S = 0.1
#: Commands of the worker that are named when they are not known, at most.
_UNKNOWN_MAX = 100


class Notices:
    """The lines of one supervisor, by what they are about."""

    def __init__(self, output: Output, settings: Settings, shown: str, clock: Callable[[], float]) -> None:
        """`shown`: the name of the entry, for people."""
        self.worker = WorkerNotices(output, settings, clock)
        self.child = ChildNotices(output, settings, shown, self.worker)
        self.task = TaskNotices(output, settings)


class WorkerNotices:
    """Messages about the worker and the connection to it."""

    def __init__(self, output: Output, settings: Settings, clock: Callable[[], float]) -> None:
        self._output = output
        self._settings = settings
        self._clock = clock
        self._began = clock()
        self._unreachable: tuple[str, str] | None = None  #: (url, reason), suppressed while the code loads
        self._is_waiting_shown = False
        self._unknown: set[str] = set()
        self._say = _say_unless_local(output, settings)
        self.shows_commands = output.verbose  #: whether command() shows anything

    def connected(self, url: str) -> None:
        """A worker is connected."""
        self._is_waiting_shown = False
        self._unreachable = None
        url = without_login(url)
        self._say(f"● connected to {url}")
        self._output.events.emit("connected", {"url": url, "encoding": self._settings.serving.encoding})

    def unreachable(self, url: str, reason: str, *, is_loading: bool) -> None:
        """Say once that no worker can be reached; while the code loads (`is_loading`), not before LOADING_S.

        The worker may need as long to start as the code to load.
        """
        if self._is_waiting_shown:
            return
        if is_loading and self._clock() - self._began < LOADING_S:
            self._unreachable = url, reason
            return
        self._is_waiting_shown = True
        self._output.say(f"◌ waiting for an HKube worker at {without_login(url)}: {reason}; retrying")
        if not self._settings.local_run.is_local:
            self._output.say(f"  no worker here? run one task without it:  {self._settings.local_command}")

    def code_loaded(self) -> None:
        """The code is loaded: say now that no worker can be reached, if that was suppressed."""
        if self._unreachable is not None:
            url, reason = self._unreachable
            self._unreachable = None
            self.unreachable(url, reason, is_loading=False)

    def connection_lost(self, reason: str) -> None:
        """The connection is lost, the next one is being made."""
        self._output.say(f"◌ connection lost: {reason}; reconnecting")

    def answer_lost(self, task: str, reason: str) -> None:
        """The answer of a task was dropped."""
        self._output.warn(f"✘ task {task}: {reason}")

    def command(self, command: str) -> None:
        """The worker has sent this command."""
        self._output.debug(f"worker: {command}")

    def repeated_initialize(self) -> None:
        """The worker has sent the running task once more."""
        self._output.debug("worker: initialize again, for the task that is running")

    def unknown_command(self, command: str) -> None:
        """The worker has sent a command that is not served. Said once for each."""
        if command not in self._unknown and len(self._unknown) < _UNKNOWN_MAX:
            self._unknown.add(command)
            self._output.say(f"◌ the worker sent {command[:80]!r}, which is not served; ignored from now on")

    def already_connected(self, host: object) -> None:
        """The worker has refused us, because it serves another client."""
        self._output.warn(f"✘ the worker serves another client already{f', on {host}' if host else ''}")

    def unreadable(self, what: str, error: ValueError) -> None:
        """The worker has sent this, and it cannot be decoded."""
        self._output.warn(f"✘ the worker sent {what} that cannot be read: {error}")


class ChildNotices:
    """Messages about the algorithm's process."""

    def __init__(self, output: Output, settings: Settings, shown: str, worker: WorkerNotices) -> None:
        self._output = output
        self._settings = settings
        self._shown = shown
        self._worker = worker
        self._was_loaded = False
        self._say = _say_unless_local(output, settings)

    def loaded(self, methods: Sequence[str], python: str, protection: Protection | None) -> None:
        """A child has loaded the code. `protection`: the limits, and how they are enforced."""
        lacks = [one for one in ("init", "stop", "exit") if one not in methods]
        without = f" (no {', '.join(lacks)})" if lacks else ""
        say = self._output.debug if self._was_loaded else self._say
        told = f"loaded: {', '.join(methods)}{without}" if python else "connected"  # a program of --command
        say(f"● {self._shown} {told}")
        event = {"entry": self._shown, "methods": list(methods), "python": python or None}
        self._output.events.emit("loaded", event)
        if protection is not None and not self._was_loaded:
            self._limits(protection)
        self._was_loaded = True
        self._worker.code_loaded()

    def _limits(self, protection: Protection) -> None:
        limits = self._settings.limits
        say = self._output.announce if limits != NO_LIMITS else self._say
        shown = "none" if limits == NO_LIMITS else limits.shown()
        if not limits.enforced:
            shown = "none, usage is only measured"
        elif self._settings.limits_from and limits.has_no_option():
            shown += f" ({self._settings.limits_from})"
        say(f"● limits: {shown}")
        if self._settings.sandbox is not None:
            self._sandbox(protection)
        signals = "confined" if protection.signals_confined else "not confined (this kernel cannot)"
        self._output.debug(f"  {protection.line}; signals {signals}")

    def _sandbox(self, protection: Protection) -> None:
        """Say which sandbox holds, and what a weaker one than the strongest does not hold."""
        sandbox = self._settings.sandbox
        assert sandbox is not None, "the caller has looked"
        network = "the machine's network" if sandbox.network else "no network"
        if sandbox.targets:
            network = f"network only {', '.join(sandbox.targets)}"
        level = protection.sandbox
        self._output.announce(f"● sandbox: strict, level {level}, {network}")
        for refused in protection.refused or ():
            self._output.announce(f"  not {refused}")
        for open_to_it in protection.not_prevented or ():
            self._output.announce(f"  not prevented: {open_to_it}")

    def died_without_task(self, when: str, exit: Exit) -> None:
        """A child died while it worked on no task; `when`, or which child it was."""
        during = "while no task ran" if exit.loaded else "during import"
        self._output.warn(f"✘ {when}: {report(exit, during=during)}")

    def left_behind(self, exit: Exit) -> None:
        """The child has ended after its last task, or had to be killed, and may have left things behind."""
        if exit.cause is Cause.STOPPED and self._settings.serving.grace_s >= ORDERLY_END_S:
            place = place_of(exit)
            where = f"; it was {place}" if place else ""
            self._output.warn(
                f"● the algorithm's process did not end when asked, and was killed after --grace{where}"
            )
        for line in left_behind(exit):
            self._output.say(f"  {line}")

    def problem(self, problem: str) -> None:
        """The child reports a problem while no task runs."""
        self._output.warn(f"✘ {problem}")

    def recycled(self, served: int) -> None:
        """The child is replaced by a new one."""
        self._output.debug(f"a new process after {served} tasks (--recycle-after)")


class TaskNotices:
    """Messages about a task."""

    def __init__(self, output: Output, settings: Settings) -> None:
        self._output = output
        self._settings = settings
        self._were_left_running = False
        #: Whether state_changed() shows anything.
        self.shows_states = output.verbose or type(output.events) is not EventSink

    def unexpected(self, state: State, event: Event) -> None:
        """An event came at a time when it means nothing."""
        self._output.warn(f"✘ protocol: unexpected {event.name} in state {state.name}; ignored")

    def state_changed(self, number: int, before: State, after: State) -> None:
        """The state of the task has changed."""
        self._output.debug(f"task {number}: {before.name} -> {after.name}")
        self._output.events.moved(before, after)

    def begins(self, ids: TaskIds) -> None:
        """The task is known by name."""
        self._output.events.begin(ids)
        if not self._settings.local_run.is_local:
            line = f"▶ task {ids.task}  job {ids.job}  {ids.pipeline}/{ids.node}"
            self._output.say(printable(line, 1000))

    def progress(self, data: Mapping[str, Any]) -> None:
        """The algorithm reports its progress."""
        self._output.events.emit("progress", data)

    def sampled(self, samples: Sequence[tuple[float, float, int, int]]) -> None:
        """The usage of the task was sampled."""
        self._output.events.sampled(samples)

    def stopping(self, task: str | None, *, may_kill: bool) -> None:
        """The task of this name is asked to stop; None: everything is, while a task runs."""
        what = ":" if task is None else f" task {task}: stop() is called,"
        patience = f"{self._settings.serving.grace_s:.12g} s to end" if may_kill else "waiting for it to end"
        say = self._output.announce if task is None else self._output.say
        say(f"■ stopping{what} {patience}")

    def stop_failed(self, name: str, error: object) -> None:
        """The user's stop() has raised."""
        self._output.warn(f"✘ stop() of task {name} failed: {error}")

    def left_running(self, task: str, count: int) -> None:
        """The task has left processes behind, which are not ended. Said once."""
        if not self._were_left_running:
            self._were_left_running = True
            left = (
                "1 more process running; it ends"
                if count == 1
                else f"{count} more processes running; they end"
            )
            self._output.say(
                f"  task {task} left {left} with the algorithm's own process (--end-children: with the task)"
            )

    def leak(self, sentence: str) -> None:
        """The memory of the child grows from task to task."""
        self._output.warn(sentence)


def _say_unless_local(output: Output, settings: Settings) -> Callable[[str], None]:
    """Return the function that shows a line; in a local run, it does so with --verbose only."""
    return output.debug if settings.local_run.is_local else output.say
