"""Gives a task its names and its record, with names from wherever they can be read first."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ...boards.runs.store import Store
from ...boards.runs.task_ids import TaskIds, local_job_id
from ...sandbox.shared.entry import Location
from ...sandbox.shared.messages import Protection
from ..link.connection import WorkerMessage
from ..prepare.code_name import code_name
from ..protocol import encoding
from ..settings.settings import Settings
from .active_task import ActiveTask
from .notices import TaskNotices


class TaskOpener:
    """Names tasks, and opens their records."""

    def __init__(
        self, settings: Settings, where: Location, store: Store | None, notices: TaskNotices
    ) -> None:
        self._settings = settings
        self._shown = where.shown
        self._store = store
        self._notices = notices
        #: Default ids for tasks that carry none.
        self._defaults = TaskIds("", local_job_id(time.time()), code_name(settings, where), "local")
        #: What the records of tasks have in common, for the protection of the last one.
        self._common: tuple[Protection | None, Mapping[str, object]] | None = None

    def open(
        self,
        task: ActiveTask,
        names: Mapping[str, str | None] | None,
        protection: Protection | None = None,
        *,
        begins_later: bool = False,
    ) -> None:
        """Name the task with the names of its message, and begin its record; only the first call counts.

        protection: how the limits of its child are enforced. begins_later: ActiveTask.begin_record() writes
        the record.
        """
        if task.ids is None:
            self._name(task, names or {})
            self._record(task, protection, begins_later=begins_later)

    @property
    def is_awaited(self) -> bool:
        """Whether a task is to be opened before its state changes: what is shown of that carries its name."""
        return self._notices.shows_states

    def _name(self, task: ActiveTask, names: Mapping[str, str | None]) -> None:
        default = self._defaults
        ids = TaskIds(
            task=names.get("taskId") or f"task-{task.number}",
            job=names.get("jobId") or default.job,
            node=names.get("nodeName") or names.get("algorithmName") or default.node,
            pipeline=names.get("pipelineName") or default.pipeline,
        )
        task.ids = ids
        self._notices.begins(ids)

    def _record(self, task: ActiveTask, protection: Protection | None, *, begins_later: bool) -> None:
        if self._store is None:
            return
        common = self._common
        if common is None or common[0] is not protection:
            facts: dict[str, object] = {
                "settings": self._settings.records.options,
                "protection": protection.as_dict() if protection is not None else None,
            }
            common = self._common = protection, facts
        task.open_record(self._store, self._shown, *common, begins_later=begins_later)

    def names_ahead(self, task: ActiveTask) -> Mapping[str, str | None] | None:
        """Return the names in a task's message before its child has read it; None if they are not easily
        found."""
        assert task.message is not None, "a task has its message until a child has begun it"
        return self._names_in(task.message)

    def open_late(self, task: ActiveTask) -> None:
        """Open a task that ends without its child having read it."""
        names = task.names or (self._names_in(task.message) if task.message is not None else None)
        # The protection that others have begins no new file of the journal.
        self.open(task, names, self._common[0] if self._common is not None else None)

    def prepare_next(self) -> None:
        """Do now what the next task would wait for."""
        if self._store is not None:
            self._store.prepare_next()

    def is_repeated(self, task: ActiveTask, message: WorkerMessage) -> bool:
        """Whether the message is the initialize of this very task: only a task id can show that."""
        if task.ids is None:
            return False
        names = self._names_in(message) or {}
        name, job = names.get("taskId") or "", names.get("jobId") or ""
        # Of another job it is another task: a stand-in that was started again counts its tasks from 1.
        return name != "" and name == task.ids.task and job in ("", task.ids.job)

    def _names_in(self, message: WorkerMessage) -> Mapping[str, str | None] | None:
        if message.blob is None:
            return encoding.ids_of(self._settings.serving.encoding, message.data)
        with message.blob.view() as view:
            return encoding.ids_of(self._settings.serving.encoding, view)
