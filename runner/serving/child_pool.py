"""The children of one run: the serving child, the spare, and those on their way out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from enum import Enum, auto

from ...sandbox.parent.child_handle import Child, ChildListener
from ...sandbox.shared.entry import Location
from ...sandbox.shared.messages import Setup
from ...sandbox.shared.outcome import Cause, Exit, not_started
from ..io.loop import Loop
from ..settings.settings import Settings
from .child_starter import ChildStarter

#: Takes a process that exists already as the child: (loop, listener, setup) -> its handle. May raise OSError.
Attach = Callable[[Loop, ChildListener, Setup], Child]
#: After this long without a task, the warden measures only what could exceed a limit between tasks.
IDLE_S = 1.0


class ChildRole(Enum):
    """The role of a child in the pool."""

    SERVING = auto()  #: it gets the tasks
    SPARE = auto()  #: it has loaded the code, and takes over when the serving child ends
    LEAVING = auto()  #: its end was asked for; nothing of it is read any more


class ChildPool:
    """Starts children, ends them, and knows which of them serves."""

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
        self._starter = ChildStarter(loop, settings, where, env)
        self._listener: ChildListener | None = None
        self._attach = attach
        self.child: Child | None = None  #: the serving child
        self.has_begun = False  #: whether the serving child has begun a task
        self.served = 0  #: tasks that are over, and have left the serving child alive
        self._spare: Child | None = None
        self._spare_has_died = False  #: whether a spare has ended by itself since the last task ended
        self._leaving: set[Child] = set()
        self._last_exit: Exit | None = None  #: of the last serving child
        self._idle_alarm = loop.alarm(self._rest)
        self._is_resting = False  #: whether the warden of the serving child measures less
        self._is_measuring = False  #: whether the warden was asked about the task that runs
        limits = settings.limits
        #: Whether the warden is told of each task, for limits that many brief tasks could break together.
        #: Without them it has nothing to measure in a task that is over before it is asked about it, and one
        #: brief task of a hundred waited for its look.
        self._is_told_of_tasks = limits.enforced and (limits.memory_bytes or limits.cpu_time_s) is not None
        #: Called when the last child has ended, once all were asked to end.
        self.on_empty: Callable[[], None] | None = None

    def child_pid(self) -> int:
        """Return the pid of the child that serves; 0 when there is none."""
        return self.child.pid if self.child is not None else 0

    def begin(self) -> None:
        """Start the serving child before its listener exists: the listener's modules can be imported
        meanwhile, which takes as long as the child takes to start.

        The loop must not run before listen().
        """
        if self._attach is None:
            with contextlib.suppress(OSError):  # ready() gets the same error, and returns it
                self.child = self._start()

    def listen(self, listener: ChildListener) -> None:
        """Have this listener called for everything that comes from a child."""
        self._listener = listener
        if self.child is not None:
            self.child.set_listener(listener)

    def ready(self) -> Child | Exit:
        """Return the serving child: the present one, the spare, or a new one.

        An Exit when the system has no process for us.
        """
        if self.child is not None:
            return self.child
        try:
            child, self._spare = self._spare or self._start(), None
        except OSError as error:
            exit = not_started(error)
            self._last_exit = exit
            return exit
        self.child, self.served, self.has_begun = child, 0, False
        self._is_resting = self._is_measuring = False
        self._idle_alarm.cancel()
        if child.loaded:  # the spare: it was loaded before it served, so nothing else asks for the next one
            self.prepare_spare()
        return child

    def prepare_spare(self) -> None:
        """Start the spare, if one was asked for and there is a serving child."""
        if self._settings.serving.spare and self._spare is None and self.child is not None:
            with contextlib.suppress(OSError):  # no process can be started: serving continues without a spare
                self._spare = self._start()

    def replace(self) -> None:
        """Start the next child now, unless the last one has ended by itself without having begun a task.

        A next one would probably end in the same way, again and again; it is started for the next task.
        """
        exit, has_begun = self._last_exit, self.has_begun or self.served
        if exit is not None and (exit.cause is Cause.STOPPED or (exit.loaded and has_begun)):
            self.ready()

    def recycle(self) -> None:
        """Have a new child serve from now on; the present one ends."""
        self.release(Cause.RECYCLED, ask=True)
        self.ready()

    def _start(self) -> Child:
        if self._attach is not None:
            assert self._listener is not None, "listen() comes before ready()"
            return self._attach(self._loop, self._listener, self._starter.setup(self._starter.variables))
        return self._starter.start(self._listener)

    # ---- how often the warden measures

    def task_begins(self) -> None:
        """Have the warden of the serving child measure often, if there is a limit that needs it."""
        if self._is_told_of_tasks:
            self._idle_alarm.cancel()
            if self._is_resting and self.child is not None:
                self._is_resting = False
                self.child.watch(idle=False)

    def task_is_measured(self) -> None:
        """Note that the warden was asked about the task: it measures often from then on."""
        self._is_resting, self._is_measuring = False, True

    def task_ended(self) -> None:
        """Have the warden measure less after IDLE_S with nothing to measure; replace a dead spare."""
        self._is_measuring = False
        if not self._is_resting and not self._idle_alarm.pending:
            self._idle_alarm.set(IDLE_S)
        if self._spare_has_died:
            self._spare_has_died = False
            self.prepare_spare()

    def _rest(self) -> None:
        if self.child is not None and not self._is_measuring:
            self._is_resting = True
            self.child.watch(idle=True)

    # ---- the end of children

    def abandon(self, cause: Cause) -> None:
        """Kill the serving child in the background; nothing of it is read any more.

        A child that may not be killed is asked to stop, and takes its next task when its last one returns.
        """
        if self.child is not None and not self.child.may_kill:
            self.child.stop(0, {"forceStop": True})
            return
        child, self.child = self.child, None
        if child is not None:
            self._leaving.add(child)
            child.kill(cause)

    def release(self, cause: Cause = Cause.STOPPED, *, ask: bool = False) -> None:
        """Give the serving child the grace to end by itself; it gets no further task.

        `ask`: it does not end by itself, and is asked to.
        """
        if self.child is not None:
            self.child.drain_output()  # what it has printed belongs to its task
        child, self.child = self.child, None
        if child is not None:
            self._leaving.add(child)
            if ask:
                child.exit({"exitCode": 0})
            self._loop.after(self._settings.serving.grace_s, lambda: child.kill(cause))

    def drop_spare(self) -> None:
        """End the spare."""
        child, self._spare = self._spare, None
        if child is not None:
            self._leaving.add(child)
            child.kill(Cause.RECYCLED)

    def kill_leaving(self) -> None:
        """Kill the children whose end was asked for: their grace is over."""
        for child in list(self._leaving):
            child.kill(Cause.INTERRUPTED)

    def gone(self, child: Child, exit: Exit) -> ChildRole:
        """Forget a child of which nothing is left; return what it was until now.

        A spare is replaced: at once, or after the next task where the new one would probably end, too.
        """
        if child is self.child:
            self.child, self._last_exit = None, exit
            return ChildRole.SERVING
        if child is self._spare:
            self._spare = None
            is_first, self._spare_has_died = not self._spare_has_died, True
            if is_first and exit.loaded:
                self.prepare_spare()
            return ChildRole.SPARE
        self._leaving.discard(child)
        if self.child is None:  # it was the last one that served
            self._last_exit = exit
        if self.is_empty and self.on_empty is not None:
            self.on_empty()
        return ChildRole.LEAVING

    @property
    def is_empty(self) -> bool:
        """Whether no child is left."""
        return self.child is None and self._spare is None and not self._leaving
