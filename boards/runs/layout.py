"""Where things lie in a state folder, and how a task gets its folders there.

<root>/tasks/<task>/      task.json input.json output.json error.json stdout.log stderr.log ...
<root>/runs/<pipeline>/<node>/<job>/<task>/     the user's event files: what a board shows
<root>/runs/.../<task>/resources/               CPU and memory of the same task (resource_series.py)
<root>/current/<n>/metrics -> ../../runs/...    the path in ALGO_METRICS_DIR, outside every board's folder
<root>/tasks/<task>/metrics -> ../../runs/...   the same link, moved here when the next task got its own
<root>/owners/<process>.lock                 held by boards and what records tasks (owner_lock.py)
<root>/journal/<run>-<n>.journal   served tasks that have none of these (journal.py)
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from . import owner_lock
from .files import is_empty_folder, read_bytes, replace_file, safe_part, with_suffix
from .task_ids import local_job_id

if TYPE_CHECKING:
    from pathlib import Path  # imported where one is asked for: 3 ms of the start, and half a megabyte

STREAMS = ("stdout", "stderr")
RESOURCES = "resources"  # the sub-folder of a task's metrics that holds its CPU and memory curves
VOLUME_LINK = "metrics"  # the link to the cluster's shared folder, below a task's metrics


class Layout:
    """The folders of one state folder; several processes may use the same one at once."""

    def __init__(self, root: str | Path) -> None:
        """Nothing is created yet."""
        root = self.root_text = os.path.abspath(root)
        self.tasks = f"{root}/tasks"  #: the folder of all tasks' own folders
        self.runs = f"{root}/runs"  #: the folder of all tasks' metrics
        self.metrics_links = f"{root}/current"  #: the folder of the links that ALGO_METRICS_DIR names
        self.journal = f"{root}/journal"  #: the folder of the journals of all processes
        self._is_made = False
        self._reserved: set[str] = set()  # local task names that have a folder and no task yet
        self._next_local: int | None = None  # None until tasks/ was read
        self._repeats: dict[str, int] = {}  # task id -> the last suffix that was given to it
        self._run_parent: tuple[tuple[str, str, str] | None, str] = (None, "")  # the latest, and its names

    def make_folders(self) -> None:
        """Create the folders below the root, at the first call. Raises OSError."""
        if not self._is_made:
            self.make_folders_again()

    def make_folders_again(self) -> None:
        """Create the folders below the root again, which someone has removed while we run. Raises OSError."""
        if not os.path.isdir(self.tasks):
            os.makedirs(self.tasks, exist_ok=True)
            ignore = f"{self.root_text}/.gitignore"
            if not os.path.exists(ignore):
                replace_file(ignore, b"# made by hkrunner\n*\n")
        os.makedirs(self.runs, exist_ok=True)
        os.makedirs(self.metrics_links, exist_ok=True)
        owner_lock.take_again(self.root_text)
        self._is_made = True

    def next_local_task(self) -> str:
        """Return the next free name t1, t2, ...; its folder exists, so no other process takes the name."""
        number = self._next_local or 1
        try:
            self.make_folders()
            if self._next_local is None:
                number = 1 + _highest_local_number([*os.listdir(self.tasks), *self._names_in_journals()])
            while not _make_new(f"{self.tasks}/t{number}"):
                number += 1
        except OSError:
            pass  # the task's record meets the same error, and can report it
        self._next_local = number + 1
        name = f"t{number}"
        self._reserved.add(name)
        return name

    def _names_in_journals(self) -> list[str]:
        if not os.path.isdir(self.journal):
            return []
        from .journal_format import local_names_in  # late: few state folders have both

        found: list[str] = []
        for name in os.listdir(self.journal):
            with contextlib.suppress(OSError):  # removed meanwhile, or not ours to read
                found += local_names_in(read_bytes(f"{self.journal}/{name}"))
        return found

    def claim_task(self, task: str) -> str:
        """Make the task's folder and return its name; a repeated id gets a suffix. Raises OSError."""
        name = safe_part(task)
        if name in self._reserved:
            self._reserved.discard(name)
            if os.path.isdir(f"{self.tasks}/{name}"):
                return name
        if _make_new(f"{self.tasks}/{name}"):
            return name
        number = self._repeats.get(task, 1)
        while True:
            number += 1
            name = with_suffix(task, number)
            if _make_new(f"{self.tasks}/{name}"):
                self._repeats[task] = number
                return name

    def claim_named(self, name: str) -> str:
        """Make the folder of a task with this name and return the name, with a suffix if it is taken.

        A folder without a record is not: a child makes it for a large result. Raises OSError.
        """
        number, free = 1, name
        while not _make_new(f"{self.tasks}/{free}"):
            if not os.path.lexists(f"{self.tasks}/{free}/task.json"):
                break
            number += 1
            suffix = f".{number}"
            free = name.encode()[: 255 - len(suffix)].decode(errors="ignore") + suffix
        return free

    def run_parent(self, pipeline: str, node: str, job: str) -> str:
        """Return the folder of the run folders of this job's node."""
        names = (pipeline, node, job)
        if self._run_parent[0] != names:
            self._run_parent = (names, "/".join([self.runs, *map(safe_part, names)]))
        return self._run_parent[1]

    def claim_run(self, parent: str, name: str) -> str:
        """Make an empty metrics folder below the parent and return its path. Raises OSError.

        One of that name with files in it (its task's own folder was removed by hand) is left alone, and the
        new one gets a suffix.
        """
        number = 1
        folder = f"{parent}/{name}"
        while True:
            try:
                os.mkdir(folder)
                return folder
            except FileNotFoundError:
                os.makedirs(parent, exist_ok=True)
            except FileExistsError:
                if is_empty_folder(folder):
                    return folder
                number += 1
                folder = f"{parent}/{with_suffix(name, number)}"

    def claim_orphaned_run(self) -> str:
        """Make a metrics folder for files whose task is unknown, and return its path. Raises OSError."""
        return self.claim_run(f"{self.runs}/earlier/found/{local_job_id(time.time())}", "files")


def _make_new(path: str) -> bool:
    """Make the folder; False when the name is taken."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    return True


def _highest_local_number(names: Iterable[str]) -> int:
    """Return the highest N of the names tN and tN.suffix; 0 when there is none."""
    highest = 0
    for name in names:
        number = name[1:].partition(".")[0]
        if name.startswith("t") and number.isascii() and number.isdigit() and len(number) < 10:
            highest = max(highest, int(number))
    return highest
