"""The metrics folder of one task, and what ALGO_METRICS_DIR leads to while the task runs.

With a cluster's shared folder (HKube's worker uploads it whole after each success) the task writes to that
folder itself. The folder is emptied before each task: what lies there belongs to the task before and is moved
to that task's `runs/.../metrics`, which was a link to the shared folder while the task ran, so that a board
shows the same run names before and after. The symlink in `current/` says whose files they are, also after a
crash of hkrunner.
"""

from __future__ import annotations

import enum
import itertools
import os
from dataclasses import dataclass

from .disk_problems import DiskProblems
from .files import is_empty_folder, unlock_folder
from .layout import RESOURCES, VOLUME_LINK, Layout
from .metrics_link import MetricsLink
from .task_ids import TaskIds

#: Beginning of the name of a temporary folder that keeps a task's metrics.
TEMPORARY_PREFIX = "hkrunner-task-metrics-"
_EARLIER_FOLDERS = 8
_FILES_LOOKED_AT = 1000


@dataclass
class MetricsPlaces:
    """Where the metrics of a store's tasks go; at most one of volume and root is set."""

    layout: Layout
    link: MetricsLink
    #: The cluster's shared folder: ALGO_METRICS_DIR as it was set for hkrunner.
    volume: str | None = None
    #: A folder of the user's: each task writes to <root>/<task>, and what lies there already is not touched.
    root: str | None = None
    #: Where metrics go if the state folder cannot be written; None: to a new folder for each task.
    fallback: str | None = None


class MetricsPlace(enum.Enum):
    """Where a task's metrics are written."""

    NOWHERE = "no folder could be made"
    SHARED = "the folder in current/, which the next task gets, too, if nobody has written to it by then"
    RUN_FOLDER = "runs/<pipeline>/<node>/<job>/<task>"
    USER_FOLDER = "the task's folder below the user's, to which the run folder is a link"
    VOLUME = "the cluster's shared folder, to which the run folder holds a link"
    TEMPORARY = "a folder in the temporary directory: the state folder cannot be written"


class EarlierMetrics:
    """The metrics folders of the latest tasks, to find metrics that a later task writes to one of them."""

    #: Whether there are folders to watch, and none that has grown was found: one warning will do.
    is_watching = False

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._was_found = False

    def add(self, folder: str, size: int) -> None:
        """Watch one more folder. size: bytes of metrics in it now."""
        self._sizes[folder] = size
        if len(self._sizes) > _EARLIER_FOLDERS:
            del self._sizes[next(iter(self._sizes))]
        self.is_watching = not self._was_found

    def correct(self, folder: str, size: int) -> None:
        """Have the size of a folder to which its own task has written after its end, if it is watched."""
        if folder in self._sizes:
            self._sizes[folder] = size

    def find_grown(self) -> str | None:
        """Return a folder that has grown since it was added; None after the first."""
        if self.is_watching:
            for folder, size in self._sizes.items():
                if _bytes_of_metrics(folder) > size:
                    self._was_found, self.is_watching = True, False
                    return folder
        return None


class TaskMetrics:
    """Where one task's metrics go. Never raises for the disk: it has a sentence instead."""

    place = MetricsPlace.NOWHERE
    #: Whether it has a run folder although the place is SHARED.
    has_folder = False
    #: The folder that it shares with other tasks at first, relative to the state folder; None: it does not.
    recorded_link: str | None = None
    _user_folder = ""
    _is_empty: bool | None = None  # None: not looked at yet

    def __init__(self, places: MetricsPlaces, disk: DiskProblems) -> None:
        """Nothing is made yet."""
        self._places = places
        self._disk = disk
        #: The task's run folder for good. A text: a Path costs 10 µs to make, a tenth of a short task.
        self.folder = places.layout.runs
        #: What ALGO_METRICS_DIR says, the same for all tasks of a store.
        self.link = self.folder

    @property
    def written_to(self) -> str:
        """The folder that the user expects the files in."""
        return self._user_folder or self.folder

    @property
    def environment(self) -> dict[str, str]:
        """The algorithm's variables: the stable path for code that reads it once, and this task's own."""
        own = self.link if self.place is MetricsPlace.VOLUME else self.written_to
        return {"ALGO_METRICS_DIR": self.link, "HKRUNNER_TASK_METRICS_DIR": own}

    @property
    def recorded_folder(self) -> str | None:
        """The run folder relative to the state folder, for task.json; None when it lies elsewhere."""
        prefix = self._places.layout.root_text + "/"
        return self.folder[len(prefix) :] if self.folder.startswith(self._places.layout.runs + "/") else None

    def open_shared(self) -> None:
        """Have ALGO_METRICS_DIR name an empty folder, which becomes the task's own if it writes there.

        take_name() is to follow before that, or at once if there is no such folder (recorded_link is None).
        """
        places = self._places
        volume = places.volume
        try:
            if volume is not None:
                self._empty_volume(volume)
            link = places.link.make_empty_folder()
            self.link = link if volume is None else volume
            self.place, self.recorded_link = MetricsPlace.SHARED, places.link.recorded_path
        except OSError as error:
            self._disk.note("metrics", error)
            self._use_temporary_folder()

    def take_name(self, ids: TaskIds, name: str) -> None:
        """Know where the run folder of the task would be, after open_shared()."""
        if self.place is not MetricsPlace.TEMPORARY:
            self.folder = f"{self._places.layout.run_parent(ids.pipeline, ids.node, ids.job)}/{name}"

    def make_folder(self, name: str) -> None:
        """Make the task's run folder. What it writes goes there only with take_shared()."""
        if self.place is MetricsPlace.SHARED and not self.has_folder:
            try:
                self.folder = self._places.layout.claim_run(os.path.dirname(self.folder), name)
                self.has_folder = True
            except OSError as error:
                self._disk.note("metrics", error)

    def take_shared(self, task_folder: str) -> None:
        """Move what the task has written to its run folder, and have ALGO_METRICS_DIR lead there."""
        if self.place is MetricsPlace.SHARED and self.has_folder:
            volume = self._places.volume
            try:
                self._places.link.lead_to(
                    self.folder, task_folder, real=self.folder, is_in_use=volume is None
                )
                if volume is None:
                    self.place = MetricsPlace.RUN_FOLDER
                else:
                    os.symlink(volume, f"{self.folder}/{VOLUME_LINK}")
                    self.place = MetricsPlace.VOLUME
            except OSError as error:
                self._disk.note("metrics", error)

    def open(self, ids: TaskIds, name: str, task_folder: str) -> None:
        """Create the folder, or empty it, and have ALGO_METRICS_DIR lead to it."""
        layout, places = self._places.layout, self._places
        parent = layout.run_parent(ids.pipeline, ids.node, ids.job)
        self.folder = self.link = f"{parent}/{name}"
        try:
            run = self.folder = layout.claim_run(parent, name)
            self.link = self._places.link.claim()
            self.place = MetricsPlace.RUN_FOLDER
            if places.root is not None:
                self._user_folder = layout.claim_run(places.root, name)
                os.rmdir(run)
                os.symlink(self._user_folder, run)
                self.place = MetricsPlace.USER_FOLDER
        except OSError as error:
            self._disk.note("metrics", error)
            self._use_temporary_folder()
            return
        if places.volume is not None:
            self._use_volume(places.volume, run)
        try:
            self._places.link.lead_to(run, task_folder, real=self._user_folder or run)
        except OSError as error:
            self._disk.note("metrics", error)
            self.link = self.folder

    def close(self, earlier: EarlierMetrics, *, has_failed: bool) -> None:
        """Remove an empty temporary folder; report metrics that went to an earlier task's folder."""
        place = self.place
        if place is MetricsPlace.VOLUME:
            return
        if place is MetricsPlace.TEMPORARY:
            # The fallback is for the next task, too.
            has_none = is_empty_folder(self.folder) if self._places.fallback else _removed(self.folder)
            if not has_none:
                self._disk.sentences.append(
                    f"metrics of this task are in {self.folder}; nothing else keeps them"
                )
        size = 0 if place is MetricsPlace.SHARED or self._is_empty else _bytes_of_metrics(self.folder)
        if size == 0 and (folder := earlier.find_grown()) is not None:
            self._disk.sentences.append(
                f"metrics of this task went to task {os.path.basename(folder)}: the writer is created once; "
                "create it inside start()"
            )
        # After a failure the next child is loaded while the link still leads to this task.
        if size > 0 or has_failed:
            earlier.add(self.folder, size)

    def wrote_late(self, earlier: EarlierMetrics) -> None:
        """Know that what there is now is its own, although it was written after its end."""
        if earlier.is_watching:
            earlier.correct(self.folder, _bytes_of_metrics(self._places.volume or self.folder))

    def has_any(self) -> bool:
        """Whether the task has written anything; asked after its end, and looked up once."""
        volume = self._places.volume
        if self.place is MetricsPlace.SHARED:
            return not (self._places.link.is_untouched() if volume is None else is_empty_folder(volume))
        if self._is_empty is None:
            self._is_empty = is_empty_folder(volume or self.folder)
        return not self._is_empty

    def _use_temporary_folder(self) -> None:
        """Use a temporary folder, so that a writer in user code works where the state folder does not."""
        self._user_folder = ""
        if self._places.volume is not None:
            self.place, self.link = MetricsPlace.VOLUME, self._places.volume
            return
        try:
            self.folder = self.link = self._places.fallback or make_temporary_folder()
            self.place = MetricsPlace.TEMPORARY
        except OSError:
            self.place = MetricsPlace.NOWHERE  # the first error was reported, and has the same cause

    def _use_volume(self, volume: str, run: str) -> None:
        """Empty the shared folder, and have the task's run folder link to it."""
        self.place, self.link = MetricsPlace.VOLUME, volume
        if self._empty_volume(volume):
            try:
                os.symlink(volume, f"{run}/{VOLUME_LINK}")
            except OSError as error:
                self._disk.note("metrics", error)

    def _empty_volume(self, volume: str) -> bool:
        """Give the files in the shared folder to the task that wrote them; return whether it is empty now."""
        try:
            os.makedirs(volume, exist_ok=True)
            unlock_folder(volume)
            names = os.listdir(volume)
            if names:
                move_to_latest_task(self._places.layout, volume, names, self._places.link)
            return True
        except OSError as error:  # shutil.Error is one
            self._disk.sentences.append(
                f"{volume} (ALGO_METRICS_DIR) could not be emptied for this task, files of earlier tasks may "
                f"be uploaded again: {error.strerror or error}"
            )
            return False


def make_temporary_folder() -> str:
    """Make a folder for metrics in the temporary directory. Raises OSError."""
    import tempfile  # late, as what follows: it imports random and hashlib, for a case that is rare

    from ...sandbox.linux.abandoned import signed_name

    folder = os.path.join(tempfile.gettempdir(), signed_name(TEMPORARY_PREFIX))
    os.mkdir(folder, 0o700)
    return folder


def _removed(folder: str) -> bool:
    """Remove a temporary folder, and those of killed runs, unless there are metrics in it."""
    from ...sandbox.linux.abandoned import remove_abandoned

    remove_abandoned(os.path.dirname(folder), TEMPORARY_PREFIX, only_empty=True)
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        pass
    except OSError:  # it is not empty
        return False
    return True


def move_to_latest_task(layout: Layout, volume: str, names: list[str], link: MetricsLink) -> None:
    """Move the files of the shared folder to the run folder of the task that the link still leads to."""
    path = link.claim()
    try:
        owner = os.path.realpath(path, strict=True) if os.path.islink(path) else ""
    except OSError:  # its record was removed
        owner = ""
    if not owner and not names:
        return
    owner = owner or link.run_of_lost_task() or layout.claim_orphaned_run()
    import shutil  # late: it imports every archive format, for a move

    target = f"{owner}/{VOLUME_LINK}"
    if os.path.islink(target):
        os.unlink(target)
    if not names:
        return
    os.makedirs(target, exist_ok=True)
    taken = set(os.listdir(target))
    for name in names:
        if name not in taken:
            # Not by shutil, with many system calls: hkrunner does nothing else meanwhile.
            try:
                os.rename(f"{volume}/{name}", f"{target}/{name}")
                continue
            except OSError:  # another file system, or a folder that the algorithm has locked
                pass
        unlock_folder(f"{volume}/{name}")
        shutil.move(f"{volume}/{name}", _free_path(f"{target}/{name}"))


def _free_path(path: str) -> str:
    """Return the path, with a number behind it where it is taken."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = f"{path}.{number}"
    return free


def _bytes_of_metrics(folder: str) -> int:
    """Return the bytes of the files below the folder, hkrunner's own curves left out; 0 when unreadable.

    Stops at 1,000 files a folder, since it runs between a task's end and its answer.
    """
    total = 0
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in itertools.islice(entries, _FILES_LOOKED_AT):
                    if not entry.is_dir(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
                    elif entry.name != RESOURCES:
                        waiting.append(entry.path)
        except OSError:
            continue
    return total
