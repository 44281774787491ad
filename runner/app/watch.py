"""--watch: run the inputs again, in a new child, when the code, its descriptor or its variables change.

    run -> wait for a change -> run -> ...       until a signal, or until the reader of the results has gone

Changes are found by comparing the times and sizes of the code's files with those before the run, so that a
file saved during a run is not missed. watchfiles says when to compare, in a thread that only posts into the
loop; without that package, and for folders without notifications, files are compared periodically.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ...sandbox.shared.entry import Location
from ..console.task_report import TaskReport
from ..errors import HkrunnerError, InstallFailed
from ..io.loop import Loop, Timer
from ..protocol.result import Result
from ..serving.run_context import RunContext
from ..settings.descriptor_search import NAMES, is_below
from ..settings.settings import Settings
from .local_run import LocalRun

#: Time between two comparisons without notifications, and with those of watchfiles.
POLL_S = 0.5
SLOW_POLL_S = 5.0
#: Files must be unchanged for this long before a run begins: an editor saves in several steps.
SETTLE_S = 0.1
#: Suffixes of code. Other files may be written by each run itself.
SUFFIXES = (".py", ".pyx", ".so", ".js", ".mjs", ".cjs", ".ts", ".java", ".jar")
#: Most folders that are searched for files of code.
FOLDERS_MAX = 2000
#: Most characters of the last good result that are shown.
OUTPUT_MAX = 60

#: Path -> (modification time in ns, size).
Snapshot = dict[str, tuple[int, int]]


class Changes:
    """Reports once that files of the code have changed since begin()."""

    def __init__(self, loop: Loop, folder: str, more: tuple[str, ...], skip: str | None) -> None:
        """more: further files to compare; skip: a folder below `folder` that holds no code."""
        self._loop = loop
        self._folder = folder
        self._more = more
        self._skip = skip
        self._before: Snapshot = {}
        self._own: set[str] = set()
        self._in_run: set[str] = set()
        self._timer: Timer | None = None
        self._callback: Callable[[set[str]], None] | None = None
        self._stop = threading.Event()
        self._thread = self._start_thread()
        # Files elsewhere have no notifications: watching their folders could mean watching large trees.
        is_notified = self._thread is not None and all(is_below(one, folder) for one in more)
        self._poll_s = SLOW_POLL_S if is_notified else POLL_S

    @property
    def how(self) -> str:
        """How changes are noticed, for the user."""
        return f"every {POLL_S:g} s" if self._poll_s == POLL_S else "watchfiles"

    def begin(self) -> None:
        """Compare with the files as they are now: a run begins."""
        self._before = self._snapshot()

    def wait(self, callback: Callable[[set[str]], None]) -> set[str]:
        """Call back once files have changed and settled; return the files that each run changes itself."""
        changed = self._changed(self._snapshot())
        # A file that changed in two runs in a row is written by the algorithm, not by the user.
        own = changed & self._in_run - self._own
        self._own |= own
        self._in_run = changed
        self._callback = callback
        self._arm(SETTLE_S if changed - self._own else self._poll_s)
        return own

    def close(self) -> None:
        """Stop watching."""
        self._callback = None
        if self._timer is not None:
            self._timer.cancel()
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)

    # ---- comparing

    def _arm(self, seconds: float, seen: Snapshot | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.after(seconds, lambda: self._check(seen))

    def _check(self, seen: Snapshot | None) -> None:
        """Compare; report a change once the files are as at the last comparison."""
        callback = self._callback
        if callback is None:
            return
        now = self._snapshot()
        changed = self._changed(now)
        if not changed:
            self._arm(self._poll_s)
        elif now != seen:
            self._arm(SETTLE_S, now)
        else:
            self._callback = None
            callback(changed)

    def _changed(self, now: Snapshot) -> set[str]:
        before = self._before
        return {one for one in before.keys() | now.keys() if before.get(one) != now.get(one)} - self._own

    def _snapshot(self) -> Snapshot:
        found: Snapshot = {}
        for path in (*self._files(), *self._more):
            with contextlib.suppress(OSError):
                facts = os.stat(path)
                found[path] = (facts.st_mtime_ns, facts.st_size)
        return found

    def _files(self) -> Iterator[str]:
        folders = [self._folder]
        for _ in range(FOLDERS_MAX):
            if not folders:
                return
            folder = folders.pop()
            try:
                entries = list(os.scandir(folder))
            except OSError:
                continue
            if any(one.name == "pyvenv.cfg" for one in entries):
                continue  # a virtual environment
            for one in entries:
                if one.name.startswith(".") or one.name in ("__pycache__", "node_modules"):
                    continue
                if one.is_dir(follow_symlinks=False):
                    if one.path != self._skip:
                        folders.append(one.path)
                elif one.name.endswith(SUFFIXES):
                    yield one.path

    # ---- notifications

    def _start_thread(self) -> threading.Thread | None:
        try:
            import watchfiles
        except ImportError:
            return None
        thread = threading.Thread(target=self._listen, args=(watchfiles,), name="hkrunner-watch", daemon=True)
        thread.start()
        return thread

    def _listen(self, watchfiles: Any) -> None:
        """In a thread: have the loop compare when a file has changed."""
        try:
            for _ in watchfiles.watch(
                self._folder,
                watch_filter=lambda change, path: path.endswith(SUFFIXES) or path in self._more,
                debounce=50,
                step=20,
                stop_event=self._stop,
                raise_interrupt=False,
            ):
                self._loop.post_from_thread(self._notified)
        except Exception:  # noqa: BLE001 - no inotify: compare periodically
            self._loop.post_from_thread(self._notifications_failed)

    def _notified(self) -> None:
        if self._callback is not None:
            self._check(None)

    def _notifications_failed(self) -> None:
        self._poll_s = POLL_S
        if self._callback is not None:
            self._arm(POLL_S)


@dataclass(frozen=True)
class GoodResult:
    """The last result of the last run that succeeded."""

    result: Result
    at: float


class LastResultReport(TaskReport):
    """A report that remembers the last result."""

    last: Result | None = None

    def print_result(self, result: Result) -> None:
        super().print_result(result)
        self.last = result


class Watch:
    """Runs the inputs, and again after each change."""

    def __init__(
        self,
        context: RunContext,
        inputs: list[bytes],
        read_again: Callable[[], tuple[Settings, Location]],
    ) -> None:
        """read_again: returns new settings and code after a change of their files; raises HkrunnerError."""
        self._loop, settings, where, self._output, self._store = context
        self._read_again = read_again
        self._inputs = inputs
        self._is_stale = False  #: whether a file that the settings come from has changed
        self._use(settings, where)
        self._changes = self._watch_changes()
        self._run: LocalRun | None = None
        self._good: GoodResult | None = None
        self._status = 0
        self._ended_by: int | None = None

    def _use(self, settings: Settings, where: Location) -> None:
        # Python considers a compiled file current if the source's time in seconds and its size are the same:
        # of two versions saved within a second, the first would be run twice.
        env = {"PYTHONDONTWRITEBYTECODE": "1", **settings.code.variables}
        self._settings = settings._replace(code=settings.code._replace(variables=env))
        self._where = where
        found = [settings.code.descriptor.file] if settings.code.descriptor is not None else []
        # A descriptor may be added to the folder.
        possible = (
            [os.path.join(where.folder, name) for name in NAMES]
            if not settings.code.is_descriptor_named
            else []
        )
        if settings.code.install:
            from ..prepare.requirement_sources import watched_files  # late: it is rarely asked for

            possible += [where.file, *watched_files(where, settings.code.cwd)]
        self._sources = (*dict.fromkeys((*found, *possible)), *settings.code.env_files)

    def _watch_changes(self) -> Changes:
        return Changes(self._loop, self._where.folder, self._sources, self._settings.records.state_dir)

    def _refresh(self) -> None:
        """Read the descriptor, variables and requirements again; keep what there was if that fails."""
        if not self._is_stale:
            return
        before = (self._where.folder, self._sources)
        try:
            self._use(*self._read_again())
        except InstallFailed as error:
            self._output.warn(f"✘ {error}\n  the packages stay as they were")
            return
        except HkrunnerError as error:
            self._output.warn(f"✘ {error}; limits and variables stay as they were")
            return
        self._is_stale = False
        if (self._where.folder, self._sources) != before:
            self._changes.close()
            self._changes = self._watch_changes()
            self._changes.begin()

    def run(self) -> int:
        """Run until a signal; return the exit status of the last run."""
        try:
            while True:
                self._changes.begin()
                self._refresh()
                self._status = self._run_once()
                if self._ended_by is not None or self._output.out.broken:
                    return self._status
                self._wait()
                if self._ended_by is not None:
                    # Ctrl-C is the normal end; SIGTERM gives its own exit status.
                    return self._status if self._ended_by == 130 else self._ended_by
        finally:
            self._changes.close()

    def child_pids(self) -> list[int]:
        """Return the pids of the algorithm's processes."""
        return self._run.child_pids() if self._run is not None else []

    def interrupt(self, status: int) -> None:
        """Shut down; immediately while nothing runs."""
        self._ended_by = status
        if self._run is not None:
            self._run.interrupt(status)
        else:
            self._loop.stop()

    def _run_once(self) -> int:
        context = RunContext(self._loop, self._settings, self._where, self._output, self._store)
        processes = self._settings.local_run.processes(len(self._inputs))
        run = LocalRun(context.with_new_store(), self._inputs, processes=processes)
        report = run.report = LastResultReport(self._settings, self._output)
        self._run = run
        try:
            run.begin()
            self._loop.run()
        finally:
            self._run = None
            run.close()
        status = run.exit_status
        if status == 0 and report.last is not None:
            self._good = GoodResult(report.last, time.time())
        elif self._ended_by is None:
            self._show_good()
        return status

    def _show_good(self) -> None:
        good = self._good
        if good is None:
            return
        text = (good.result.output or b"").decode("utf-8", "replace")
        shown = text if len(text) <= OUTPUT_MAX else f"{text[:OUTPUT_MAX]}…"
        at = time.strftime("%H:%M:%S", time.localtime(good.at))
        folder = (
            f" · {os.path.relpath(good.result.folder, self._settings.code.cwd)}" if good.result.folder else ""
        )
        self._output.say(f"◌ last good result: {good.result.task} at {at} → {shown}{folder}")

    def _wait(self) -> None:
        for path in sorted(self._changes.wait(self._changed)):
            self._output.say(f"◌ {self._shown(path)} is written by each run; no longer watched")
        self._output.say(f"◌ watching {self._where.folder} ({self._changes.how}); Ctrl-C ends")
        self._loop.run()

    def _changed(self, paths: set[str]) -> None:
        names = sorted(self._shown(path) for path in paths)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        self._output.say(f"▶ {', '.join(names[:3])}{more} changed: running again")
        self._is_stale = self._is_stale or not paths.isdisjoint(self._sources)
        self._loop.stop()

    def _shown(self, path: str) -> str:
        return os.path.relpath(path, self._where.folder)
