"""`hkrunner run --pipeline FILE`: reads a stream pipeline, finds its algorithms, and runs it here."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable

from ...boards.runs.store import Store
from ...boards.runs.task_ids import local_job_id
from ...sandbox.codec import codec
from ...sandbox.linux.kernel import hide_from_same_user
from ...sandbox.shared.entry import Location
from ..console.terminal import Output
from ..errors import EntryNotFound, SettingsError
from ..io.loop import Loop
from ..io.signals import signals_raise
from ..io.standard_streams import fill_standard_streams
from ..local_stream.stream_run import StreamRun
from ..prepare.inputs import read_inputs
from ..serving.run_context import RunContext
from ..settings.descriptor import read
from ..settings.descriptor_search import NAMES
from ..settings.limit_options import replicas_beyond_container
from ..settings.open_files import check_open_files
from ..settings.settings import Settings
from ..streaming import stream_settings
from ..streaming.socket_handle import MISSING
from ..worker_stub.pipeline import PipelineError
from ..worker_stub.stream_pipeline import StreamPipeline, read_stream, with_state_types
from .run import (
    make_output,
    open_output_file,
    put_in_place,
    resume_garbage_collection,
    retention_of,
)
from .run_signals import obey_signals
from .stand_in_options import algorithms_of, read_pipeline, ready_algorithm

#: Open files for each replica: 15 measured, more while its process is replaced.
OPEN_FILES_OF_A_REPLICA = 20
#: Interval at which a program reports how many messages it has sent.
REPORT_MS = 200
#: Suffixes of an algorithm's file, in the order in which they are searched; "": a folder.
_ENDINGS = (".py", "", ".yml", ".yaml", ".json")


def run_stream(settings: Settings, file: str) -> int:
    """Run the stream pipeline of this file; return the exit status.

    Raises HkrunnerError before anything is started.
    """
    fill_standard_streams()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            hide_from_same_user()  # an algorithm must not read our environment and memory
        stack.enter_context(signals_raise())  # until the loop obeys them
        settings = _without_pipeline(settings)
        pipeline, algorithms = prepared(settings, file, stack)
        return _run(settings, pipeline, algorithms)


def prepared(
    settings: Settings, file: str, stack: contextlib.ExitStack, *, runs: bool = True
) -> tuple[StreamPipeline, dict[str, tuple[Settings, Location]]]:
    """Return the pipeline, and the settings and the code of each of its algorithms; nothing is started.

    `stack` gets the callbacks that clean up at the end. `runs`: whether it will run; nothing is installed
    otherwise. Raises SettingsError, EntryNotFound, InstallFailed.
    """
    if importlib.util.find_spec("zmq") is None:
        raise SettingsError(MISSING)
    try:
        stream_settings.from_environment(os.environ)  # else each node would fail when its task begins
    except ValueError as error:
        raise SettingsError(str(error)) from None
    document = read_pipeline(file, settings.code.cwd, shown="--pipeline")
    try:
        pipeline = read_stream(document, _more_input(settings))
        folder = os.path.dirname(os.path.join(settings.code.cwd, os.path.expanduser(file)))
        algorithms = {
            name: _algorithm(name, folder, file, settings, stack, runs=runs) for name in pipeline.algorithms
        }
        state_types = {name: _state_type(own) for name, (own, _) in algorithms.items()}
        pipeline = with_state_types(pipeline, state_types)
        for node in pipeline.nodes:
            codec.as_json(pipeline.input_of(node), f"the input of node {node.name}")
    except (PipelineError, codec.ResultInvalid) as error:
        raise SettingsError(f"--pipeline {file}: {error}") from None
    replicas = sum(node.replicas for node in pipeline.nodes)
    check_open_files(f"the {replicas} replicas of the pipeline need", replicas, OPEN_FILES_OF_A_REPLICA)
    return pipeline, algorithms


def _without_pipeline(settings: Settings) -> Settings:
    """Return settings whose records have no --pipeline: repeating a node's task must not run the pipeline."""
    options = {name: value for name, value in settings.records.options.items() if name != "pipeline"}
    return settings._replace(records=settings.records._replace(options=options))


def _more_input(settings: Settings) -> dict[str, object]:
    """Return the fields of --input. Raises SettingsError if one is no object."""
    found: dict[str, object] = {}
    for text in read_inputs(settings.local_run.inputs, None, settings.code.cwd):
        values = codec.decode("json", text)
        if len(values) != 1 or not isinstance(values[0], dict):
            raise SettingsError(
                '--input gives the flowInput of --pipeline: an object such as {"name": "value"}, not'
                f" {text.decode(errors='replace'):.80}"
            )
        found.update(values[0])
    return found


# ---- algorithms


def _algorithm(
    name: str,
    folder: str,
    pipeline_file: str,
    settings: Settings,
    stack: contextlib.ExitStack,
    *,
    runs: bool,
) -> tuple[Settings, Location]:
    """Return the settings and the code of an algorithm.

    Raises EntryNotFound, SettingsError, InstallFailed.
    """
    path, shown = settings.local_run.algorithms.get(name), f"--algorithm {name}"
    if path is None:
        path, shown = _find(name, folder, pipeline_file, settings.code.cwd), f"algorithm {name}"
    own, where = ready_algorithm(path, settings, stack, shown=shown, runs=runs)
    code = own.code
    if code.descriptor is not None and code.descriptor.env == "nodejs":
        # HKube's wrapper for Node counts in milliseconds. What it has not reported at its end is not shown.
        variables = {"STREAMING_STATISTICS_INTERVAL": str(REPORT_MS), **code.variables}
        own = own._replace(code=code._replace(variables=variables))
    return own, where


def _find(name: str, folder: str, pipeline_file: str, cwd: str) -> str:
    """Return the file or folder of the algorithm, next to the pipeline's file. Raises EntryNotFound."""
    pipeline_file = os.path.join(cwd, os.path.expanduser(pipeline_file))
    for stem in dict.fromkeys((name, name.replace("-", "_"))):
        for ending in _ENDINGS:
            path = os.path.join(folder, stem + ending)
            is_there = os.path.isfile(path) if ending else os.path.isdir(path)
            if is_there and not os.path.samefile(path, pipeline_file):
                return path
    for descriptor in (os.path.join(folder, one) for one in NAMES):
        if os.path.isfile(descriptor) and read(descriptor).name == name:
            return descriptor
    shown = os.path.relpath(folder, cwd)
    place = "this folder" if shown == os.curdir else shown
    raise EntryNotFound(
        f"there is no algorithm {name!r} for the pipeline: neither {name}.py, nor a folder {name},"
        f" nor {name}.yml in {place}; --algorithm {name}=FILE names it"
    )


def _state_type(settings: Settings) -> str | None:
    descriptor = settings.code.descriptor
    return None if descriptor is None else descriptor.fields.get("stateType")


# ---- the run


def _run(
    settings: Settings, pipeline: StreamPipeline, algorithms: dict[str, tuple[Settings, Location]]
) -> int:
    file = open_output_file(settings)
    loop = Loop()
    output = make_output(loop, settings, file)
    try:
        for name, (own, _) in algorithms.items():
            # Those of --algorithm are told by algorithms_of().
            for note in () if name in settings.local_run.algorithms else own.console.notes:
                output.say(f"◌ {name}: {note}")
        limits = [
            algorithms[one.node.algorithm][0].limits for one in pipeline.nodes for _ in range(one.replicas)
        ]
        if (told := replicas_beyond_container(limits)) is not None:
            output.say(f"◌ {told}")

        def context_of(name: str) -> RunContext:
            own, where = algorithms[name]
            records = own.records
            store = (
                None
                if records.state_dir is None
                else Store(records.state_dir, metrics_root=records.metrics_dir)
            )
            return RunContext(loop, own, where, output, store)

        status = _run_nodes(loop, settings, output, pipeline, context_of)
        return max(status, put_in_place(file, output, status))
    finally:
        if settings.records.keep is not None and (kept := retention_of(loop, settings, output)) is not None:
            kept.remove_surplus()
        output.close()
        if file is not None:
            file.discard()
        loop.close()


def _run_nodes(
    loop: Loop,
    settings: Settings,
    output: Output,
    pipeline: StreamPipeline,
    context_of: Callable[[str], RunContext],
) -> int:
    others = algorithms_of(loop, settings, output, lambda text: output.warn(f"✘ local worker: {text}"))
    run = StreamRun(
        loop,
        settings,
        output,
        pipeline,
        context_of,
        others.catalog,
        job=local_job_id(time.time()),
        on_over=lambda: others.when_gone(loop.stop),
    )

    def interrupt(status: int) -> None:
        run.interrupt(status)
        if run.is_ending:
            others.shutdown()

    obey_signals(loop, interrupt, child_pids=run.child_pids)
    try:
        run.begin()
        resume_garbage_collection()
        loop.run()
    finally:
        run.close()
        others.close()
    return run.status
