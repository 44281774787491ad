"""What TensorBoard's plugins get to read: event files under the names of their tasks, and the tasks' records.

    plugin --> RunData --> TensorBoard's own data provider --> data server, or the slow loader
                  |             a run is called `<key>/<path below the run folder>` there
                  +------> the records, through RunView: inputs, outcomes, texts

A task's resources, which have a folder of their own, are shown as part of the task's run. Hyperparameters of
the user's own win over the task's input. A task is listed as soon as it has a name, even if the data server
has not loaded its event files yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tensorboard.data import provider

from ..runs.board_texts import LAYOUT, chart_layout, shown_as_it_is
from ..runs.history import ACTIVE
from ..runs.hparams import EXPERIMENT, SESSION_END, SESSION_START, SessionStatus, session_end, session_start
from ..runs.layout import RESOURCES
from ..runs.resource_series import LIMIT, MEMORY
from .run_view import ShownRuns, parents
from .viewed_task import ViewedTask

_SCALARS, _HPARAMS, _TEXT, _CUSTOM_SCALARS = "scalars", "hparams", "text", "custom_scalars"
_CHART = chart_layout("memory and its limit in MiB", (MEMORY, LIMIT), group="resources")

ByTag = dict[str, Any]
Tensors = dict[str, tuple[float, bytes]]  # tag -> time and text


class RunData(provider.DataProvider):  # type: ignore[misc]
    """TensorBoard's data provider for one board."""

    def __init__(self, source: Any, shown: Callable[[], ShownRuns], *, has_resources: bool = True) -> None:
        """source: TensorBoard's own provider for the links' folder. shown: what the board shows now.

        has_resources: not in the HParams tab, whose first columns they would be, each with its last value.
        """
        self._source = source
        self._shown = shown
        self._has_resources = has_resources

    def experiment_metadata(self, ctx: Any = None, *, experiment_id: str) -> Any:
        """Return where the data is from."""
        return self._source.experiment_metadata(ctx, experiment_id=experiment_id)

    def list_plugins(self, ctx: Any = None, *, experiment_id: str) -> list[str]:
        """Return the plugins that have data: their tabs are shown."""
        found = set(self._source.list_plugins(ctx, experiment_id=experiment_id) or ())
        for task in self._shown().tasks.values():
            if task.outcome is not None or task.inputs:
                found.add(_HPARAMS)
            if task.outcome is not None:
                found.add(_SCALARS)
            if task.may_have_texts:
                found.add(_TEXT)
            if task.has_memory_limit:
                found.add(_CUSTOM_SCALARS)
        return sorted(found)

    def list_runs(self, ctx: Any = None, *, experiment_id: str) -> list[Any]:
        """Return the tasks, and the runs below them."""
        shown = self._shown()
        starts = {name: task.started_s for name, task in shown.tasks.items()}
        for run in self._source.list_runs(ctx, experiment_id=experiment_id):
            if (name := self._name(shown, run.run_name)) is not None:
                starts.setdefault(name, run.start_time)
        return [provider.Run(run_id=name, run_name=name, start_time=at) for name, at in starts.items()]

    # --- scalars

    def list_scalars(
        self, ctx: Any = None, *, experiment_id: str, plugin_name: str, run_tag_filter: Any = None
    ) -> dict[str, ByTag]:
        """Return the scalars of each run."""
        arguments = {"experiment_id": experiment_id, "plugin_name": plugin_name}
        found = self._read(self._source.list_scalars, ctx, arguments, run_tag_filter)
        if plugin_name == _SCALARS:
            for name, tag, at_s, _ in self._outcomes(run_tag_filter):
                found.setdefault(name, {}).setdefault(tag, _series(provider.ScalarTimeSeries, at_s))
        return found

    def read_scalars(
        self,
        ctx: Any = None,
        *,
        experiment_id: str,
        plugin_name: str,
        downsample: int | None = None,
        run_tag_filter: Any = None,
    ) -> dict[str, ByTag]:
        """Return the points of the scalars of each run."""
        arguments = {"experiment_id": experiment_id, "plugin_name": plugin_name, "downsample": downsample}
        found = self._read(self._source.read_scalars, ctx, arguments, run_tag_filter)
        if plugin_name == _SCALARS:
            for name, tag, at_s, value in self._outcomes(run_tag_filter):
                found.setdefault(name, {}).setdefault(tag, [provider.ScalarDatum(0, at_s, value)])
        return found

    def read_last_scalars(
        self, ctx: Any = None, *, experiment_id: str, plugin_name: str, run_tag_filter: Any = None
    ) -> dict[str, ByTag]:
        """Return the last point of the scalars of each run."""
        arguments = {"experiment_id": experiment_id, "plugin_name": plugin_name}
        found = self._read(self._source.read_last_scalars, ctx, arguments, run_tag_filter)
        if plugin_name == _SCALARS:
            for name, tag, at_s, value in self._outcomes(run_tag_filter):
                found.setdefault(name, {}).setdefault(tag, provider.ScalarDatum(0, at_s, value))
        return found

    def _outcomes(self, run_tag_filter: Any) -> Iterator[tuple[str, str, float, float]]:
        """Yield each number that came of a task: its run, tag, time and value."""
        for name, task in self._tasks(run_tag_filter):
            if (outcome := task.outcome) is not None:
                for tag in _filtered(outcome.metrics, run_tag_filter):
                    yield name, tag, outcome.ended_s, outcome.metrics[tag]

    # --- tensors

    def list_tensors(
        self, ctx: Any = None, *, experiment_id: str, plugin_name: str, run_tag_filter: Any = None
    ) -> dict[str, ByTag]:
        """Return the tensors of each run: texts, layouts of charts, and sessions as their metadata."""
        arguments = {"experiment_id": experiment_id, "plugin_name": plugin_name}
        found = self._read(self._source.list_tensors, ctx, arguments, run_tag_filter)
        if plugin_name == _HPARAMS:
            own = self._with_own_sessions(ctx, experiment_id, found, run_tag_filter)
            if self._add_sessions(found, own, run_tag_filter):
                # The user's own list of columns lacks the inputs: without it, TensorBoard finds all columns.
                for tags in found.values():
                    tags.pop(EXPERIMENT, None)
        for name, tensors in self._tensors(plugin_name, run_tag_filter):
            for tag, (at_s, _) in tensors.items():
                found.setdefault(name, {})[tag] = _series(provider.TensorTimeSeries, at_s)
        return found

    def read_tensors(
        self,
        ctx: Any = None,
        *,
        experiment_id: str,
        plugin_name: str,
        downsample: int | None = None,
        run_tag_filter: Any = None,
    ) -> dict[str, ByTag]:
        """Return the values of the tensors of each run."""
        import numpy

        arguments = {"experiment_id": experiment_id, "plugin_name": plugin_name, "downsample": downsample}
        found = self._read(self._source.read_tensors, ctx, arguments, run_tag_filter)
        for name, tensors in self._tensors(plugin_name, run_tag_filter):
            for tag, (at_s, text) in tensors.items():
                value = numpy.array(text, dtype=object)
                found.setdefault(name, {})[tag] = [provider.TensorDatum(0, at_s, value)]
        return found

    def _tensors(self, plugin_name: str, run_tag_filter: Any) -> Iterator[tuple[str, Tensors]]:
        """Yield the texts, or the layout of a chart, of each task that has some."""
        if plugin_name not in (_TEXT, _CUSTOM_SCALARS):
            return
        for name, task in self._tasks(run_tag_filter):
            tensors: Tensors = {}
            if plugin_name == _TEXT and task.outcome is not None:
                ended_s = task.outcome.ended_s
                texts = task.read_texts()
                tensors = {tag: (ended_s, shown_as_it_is(text)) for tag, text in texts.items()}
            elif plugin_name == _CUSTOM_SCALARS and task.has_memory_limit:
                tensors = {LAYOUT: (task.started_s, _CHART)}
            if kept := {tag: tensors[tag] for tag in _filtered(tensors, run_tag_filter)}:
                yield name, kept

    def _with_own_sessions(
        self, ctx: Any, experiment_id: str, found: Mapping[str, ByTag], run_tag_filter: Any
    ) -> set[str]:
        """Return the tasks, and the runs below them, that have hyperparameters of the user's own."""
        if run_tag_filter is not None:  # it may have left them out
            arguments = {"experiment_id": experiment_id, "plugin_name": _HPARAMS}
            found = self._read(self._source.list_tensors, ctx, arguments, None)
        return {path for run, tags in found.items() if SESSION_START in tags for path in parents(run)}

    def _add_sessions(self, found: dict[str, ByTag], own: set[str], run_tag_filter: Any) -> bool:
        """Add the input and the status of each task that has no hyperparameters of the user's own.

        Return whether there was one.
        """
        has_added = False
        for name, task in self._tasks(run_tag_filter):
            outcome = task.outcome
            if name in own or (outcome is None and not task.inputs):
                continue
            if outcome is not None:
                status = SessionStatus.SUCCESS if outcome.has_succeeded else SessionStatus.FAILURE
            elif task.status == ACTIVE:
                status = SessionStatus.RUNNING
            else:
                continue  # its outcome is read in a moment
            has_added = True
            sessions = {
                SESSION_START: session_start(task.inputs or {}, task.started_s),
                SESSION_END: session_end(status, outcome.ended_s if outcome is not None else 0.0),
            }
            for tag in _filtered(sessions, run_tag_filter):
                series = _series(provider.TensorTimeSeries, task.started_s, sessions[tag])
                found.setdefault(name, {})[tag] = series
        return has_added

    # --- all else is in event files only

    def list_blob_sequences(
        self, ctx: Any = None, *, experiment_id: str, plugin_name: str, run_tag_filter: Any = None
    ) -> dict[str, ByTag]:
        """Return the images, sounds and graphs of each run."""
        arguments = {"experiment_id": experiment_id, "plugin_name": plugin_name}
        return self._read(self._source.list_blob_sequences, ctx, arguments, run_tag_filter)

    def read_blob_sequences(
        self,
        ctx: Any = None,
        *,
        experiment_id: str,
        plugin_name: str,
        downsample: int | None = None,
        run_tag_filter: Any = None,
    ) -> dict[str, ByTag]:
        """Return how to read the images, sounds and graphs of each run."""
        arguments = {"experiment_id": experiment_id, "plugin_name": plugin_name, "downsample": downsample}
        return self._read(self._source.read_blob_sequences, ctx, arguments, run_tag_filter)

    def read_blob(self, ctx: Any = None, *, blob_key: str) -> bytes:
        """Return the bytes of one of those."""
        content: bytes = self._source.read_blob(ctx, blob_key=blob_key)
        return content

    # --- names

    def _read(
        self, read: Callable[..., Any], ctx: Any, arguments: Mapping[str, object], run_tag_filter: Any
    ) -> dict[str, ByTag]:
        """Return what the source has, under the names on the page."""
        shown = self._shown()
        if run_tag_filter is not None and run_tag_filter.runs is not None:
            runs = [path for run in run_tag_filter.runs for path in self._source_runs(shown, run)]
            if not runs:
                return {}
            run_tag_filter = provider.RunTagFilter(runs=runs, tags=run_tag_filter.tags)
        found: dict[str, ByTag] = {}
        for run, tags in (read(ctx, **arguments, run_tag_filter=run_tag_filter) or {}).items():
            if (name := self._name(shown, run)) is not None:
                if name in found:
                    found[name].update(tags)
                else:
                    found[name] = tags
        return found

    def _name(self, shown: ShownRuns, run: str) -> str | None:
        """Return the name on the page of a run of the source; None if it is not shown, or not yet."""
        key, _, path = run.partition("/")
        name = shown.names.get(key)
        if name is None or not path:
            return name
        if path == RESOURCES:
            return name if self._has_resources else None
        return f"{name}/{path}"

    def _source_runs(self, shown: ShownRuns, run: str) -> list[str]:
        """Return the runs of the source that make up the run of this name on the page."""
        for name in parents(run):
            if (key := shown.keys.get(name)) is not None:
                path = run[len(name) + 1 :]
                if path:
                    return [f"{key}/{path}"]
                return [key, f"{key}/{RESOURCES}"] if self._has_resources else [key]
        return []

    def _tasks(self, run_tag_filter: Any) -> Iterable[tuple[str, ViewedTask]]:
        tasks = self._shown().tasks
        if run_tag_filter is None or run_tag_filter.runs is None:
            return tasks.items()
        return [(run, tasks[run]) for run in run_tag_filter.runs if run in tasks]


def _series(kind: Any, at_s: float, content: bytes = b"") -> Any:
    """Return the description of a series with one point."""
    return kind(max_step=0, max_wall_time=at_s, plugin_content=content, description="", display_name="")


def _filtered(tags: Iterable[str], run_tag_filter: Any) -> list[str]:
    wanted = None if run_tag_filter is None else run_tag_filter.tags
    return [tag for tag in tags if wanted is None or tag in wanted]
