"""--watch: run the inputs again, in a new child, when the code, its descriptor or its variables have changed.

    run -> wait for a change -> run -> ...       until a signal, or until nobody reads the results

What has changed is told by comparing the times of the code's files before a run with those now, so that
nothing is missed that was saved during a run. When to look is told by watchfiles, from a thread of its own
that only posts into the loop; without that package, and for folders that tell nobody, by the clock.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...boards.runs.store import Store
from ...sandbox.shared.entry import Location
from ..console.task_report import Report
from ..console.terminal import Output
from ..errors import HkrunnerError
from ..io.loop import Loop, Timer
from ..protocol.result import Result
from ..settings.descriptor import NAMES, is_below
from ..settings.settings import Settings
from .local_run import LocalRun

#: Between two looks when nobody tells of changes, and when watchfiles does.
POLL_S = 0.5
SLOW_POLL_S = 5.0
#: An editor writes in several steps: files must have rested this long.
SETTLE_S = 0.1
#: What is taken for code. Other files may be written by the algorithm itself, in each run.
SUFFIXES = (".py", ".pyx", ".so")
FOLDERS_MAX = 2000
OUTPUT_MAX = 60

#: Path -> time and size.
Snapshot = dict[str, tuple[int, int]]


class Changes:
    """Tells once when files of the code have changed since begin()."""

    def __init__(self, loop: Loop, folder: str, more: tuple[str, ...], skip: str | None) -> None:
        """`more`: files to look at as well; `skip`: a folder below that is none of the code."""
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
        # Of what lies elsewhere nobody tells: its folder may be anybody's, and large.
        told = self._thread is not None and all(is_below(one, folder) for one in more)
        self._poll_s = SLOW_POLL_S if told else POLL_S

    @property
    def how(self) -> str:
        """Return how changes are noticed."""
        return f"every {POLL_S:g} s" if self._poll_s == POLL_S else "watchfiles"

    def begin(self) -> None:
        """A run begins: what is changed from now on counts."""
        self._before = self._look()

    def wait(self, callback: Callable[[set[str]], None]) -> set[str]:
        """Call back once files have changed and rest. Returns those that each run changes itself."""
        changed = self._changed(self._look())
        # What a second run has changed again is the algorithm's doing, not the user's.
        own = changed & self._in_run - self._own
        self._own |= own
        self._in_run = changed
        self._callback = callback
        self._arm(SETTLE_S if changed - self._own else self._poll_s)
        return own

    def close(self) -> None:
        """Stop looking."""
        self._callback = None
        if self._timer is not None:
            self._timer.cancel()
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)

    # ---- looking

    def _arm(self, seconds: float, seen: Snapshot | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.after(seconds, lambda: self._check(seen))

    def _check(self, seen: Snapshot | None) -> None:
        """Look; a change that was there at the last look already, and rests, is told."""
        callback = self._callback
        if callback is None:
            return
        now = self._look()
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

    def _look(self) -> Snapshot:
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

    # ---- being told

    def _start_thread(self) -> threading.Thread | None:
        try:
            import watchfiles
        except ImportError:
            return None
        thread = threading.Thread(target=self._listen, args=(watchfiles,), name="hkrunner-watch", daemon=True)
        thread.start()
        return thread

    def _listen(self, watchfiles: Any) -> None:
        """In its own thread: have the loop look when something has happened."""
        try:
            for _ in watchfiles.watch(
                self._folder,
                watch_filter=lambda change, path: path.endswith(SUFFIXES) or path in self._more,
                debounce=50,
                step=20,
                stop_event=self._stop,
                raise_interrupt=False,
            ):
                self._loop.post_from_thread(self._look_now)
        except Exception:  # noqa: BLE001 - no inotify to be had: the clock goes on, at its own pace
            self._loop.post_from_thread(self._not_told)

    def _look_now(self) -> None:
        if self._callback is not None:
            self._check(None)

    def _not_told(self) -> None:
        self._poll_s = POLL_S
        if self._callback is not None:
            self._arm(POLL_S)


@dataclass(frozen=True)
class Good:
    """The last result of the last run that went well."""

    result: Result
    at: float


class _Noting(Report):
    """Keeps the last result."""

    last: Result | None = None

    def show(self, result: Result) -> None:
        super().show(result)
        self.last = result


class Watch:
    """Runs the inputs, and again after each change."""

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        where: Location,
        output: Output,
        make_store: Callable[[], Store | None],
        inputs: list[bytes],
        read_again: Callable[[], tuple[Settings, Location]],
    ) -> None:
        """`read_again`: what `settings` and `where` are once a file that they come from has changed;
        raises HkrunnerError."""
        self._loop = loop
        self._output = output
        self._read_again = read_again
        self._make_store = make_store
        self._inputs = inputs
        self._is_stale = False  #: what the settings come from has changed
        self._take(settings, where)
        self._changes = self._watch_changes()
        self._one: LocalRun | None = None
        self._good: Good | None = None
        self._status = 0
        self._ended_by: int | None = None

    def _take(self, settings: Settings, where: Location) -> None:
        # Python takes what it has compiled for current when time, in seconds, and size are the same: of two
        # versions saved in one second the first would be run again.
        env = {"PYTHONDONTWRITEBYTECODE": "1", **settings.child_env}
        self._settings = replace(settings, child_env=env)
        self._where = where
        found = [settings.descriptor.file] if settings.descriptor is not None else []
        # One that is not there may come to be.
        beside = [os.path.join(where.folder, name) for name in NAMES] if not settings.file_given else []
        self._sources = (*dict.fromkeys((*found, *beside)), *settings.env_files)

    def _watch_changes(self) -> Changes:
        return Changes(self._loop, self._where.folder, self._sources, self._settings.state_dir)

    def _refresh(self) -> None:
        """Read the descriptor and the variables again; what cannot be read leaves them as they were."""
        if not self._is_stale:
            return
        before = (self._where.folder, self._sources)
        try:
            self._take(*self._read_again())
        except HkrunnerError as error:
            self._output.warn(f"✘ {error}; limits and variables are as they were")
            return
        self._is_stale = False
        if (self._where.folder, self._sources) != before:
            self._changes.close()
            self._changes = self._watch_changes()
            self._changes.begin()

    def run(self) -> int:
        """Run until a signal; return the status of the last run."""
        try:
            while True:
                self._changes.begin()
                self._refresh()
                self._status = self._run_once()
                if self._ended_by is not None or self._output.out.broken:
                    return self._status
                self._wait()
                if self._ended_by is not None:
                    # Ctrl-C is how one ends this; a SIGTERM is told.
                    return self._status if self._ended_by == 130 else self._ended_by
        finally:
            self._changes.close()

    def interrupt(self, status: int) -> None:
        """End: at once while waiting, in order during a run."""
        self._ended_by = status
        if self._one is not None:
            self._one.interrupt(status)
        else:
            self._loop.stop()

    def _run_once(self) -> int:
        one = LocalRun(
            *(self._loop, self._settings, self._where, self._output),
            self._make_store(),
            iter(self._inputs),
        )
        report = one.report = _Noting(self._settings, self._output)
        self._one = one
        try:
            one.begin()
            self._loop.run()
        finally:
            self._one = None
            one.close()
        status = max(report.status, one.supervisor.exit_status)
        if status == 0 and report.last is not None:
            self._good = Good(report.last, time.time())
        elif self._ended_by is None:
            self._tell_good()
        return status

    def _tell_good(self) -> None:
        good = self._good
        if good is None:
            return
        text = (good.result.output or b"").decode("utf-8", "replace")
        shown = text if len(text) <= OUTPUT_MAX else f"{text[:OUTPUT_MAX]}…"
        at = time.strftime("%H:%M:%S", time.localtime(good.at))
        folder = f" · {os.path.relpath(good.result.folder, self._settings.cwd)}" if good.result.folder else ""
        self._output.say(f"◌ the last good result stays: {good.result.task} at {at} → {shown}{folder}")

    def _wait(self) -> None:
        for path in sorted(self._changes.wait(self._changed)):
            self._output.say(f"◌ {self._shown(path)} is written by each run: not watched any more")
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
