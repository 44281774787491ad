"""hkrunner in a Python program: hkrunner.run(), for scripts, notebooks and tests.

    import hkrunner

    (result,) = hkrunner.run("my_alg.py", [[1, 2, 3]], mem="512Mi", timeout=60)
    print(result.output, result.peak_bytes)

The tasks run under a separate hkrunner command, a child process of the caller: hkrunner adopts orphans,
handles signals and runs an event loop, and the caller may be a notebook with threads and an event loop of its
own. command.py has the pipes between the two.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any

from ...sandbox.codec import codec
from ..errors import SettingsError
from ..settings.cluster_options import LOCAL
from .command import Command, error_of
from .keywords import RunOptions, arguments, check_text, complete_signature, variables_file
from .results import Printed, RunEvent, TaskResult, TaskResults

if TYPE_CHECKING:
    from typing_extensions import Unpack


def run(
    entry: str | os.PathLike[str] | None,
    inputs: Iterable[Any],
    *,
    on_event: Callable[[Printed | RunEvent | TaskResult], object] | None = None,
    **options: Unpack[RunOptions],
) -> TaskResults:
    """Run the algorithm once for each input; return the results in the order of the inputs.

    start() gets the input as args["input"]; a value that is not a list becomes a list of one. A task that
    fails or is killed also has a result: see raise_for_status(). entry None: the one of the algorithm.yml in
    the working folder, or its main.py; a program (`command`) and a cluster (`on`) need none.

    The options are those of `hkrunner run`; None means that the option is not given. A size may also be a
    number of bytes.

        (see KEYWORDS)

    `on_event` is called in the caller's thread while run() waits, for every event in its order: with a
    Printed for each line of output, with a TaskResult for each task that has ended, and with a RunEvent for
    everything else, such as progress. Each event names its task. If `on_event` raises, the algorithm is
    stopped and run() raises the same exception. If `on_event` is too slow, lines, samples and progress are
    dropped, but never results; a RunEvent `dropped` then has their number. Without `on_event`, the output
    goes to sys.stderr.

    Raises EntryNotFound, EntryUnusable (the code cannot be loaded), InstallFailed (the environment of
    `install` cannot be made) or SettingsError before the first task, ClusterError if the cluster of `on`
    cannot be reached or refuses the job, and Incomplete if hkrunner itself was killed.
    """
    __tracebackhide__ = True  # pytest shows the line of the test instead of all of this
    _check(entry, inputs)
    if entry is not None and options.get("command") is not None:
        raise SettingsError("command starts the algorithm itself: give None as the entry")
    env = options.get("env")
    is_local = options.get("on") in (None, LOCAL)
    if env and not is_local:
        raise SettingsError(
            "env sets variables on this machine, and on= runs the tasks in a cluster, where the algorithm.yml"
            " that was applied sets them: leave it out"
        )
    with contextlib.ExitStack() as stack:
        tasks = stack.enter_context(_temporary_file())
        count = _write_tasks(tasks, inputs)
        words = [
            "run",
            *(("--on", LOCAL) if is_local else ()),  # whatever cluster a variable names
            *(() if entry is None else (f"--entry={os.fspath(entry)}",)),
            "--tasks=-",
            "--output=jsonl",
            "--quiet",
            *arguments(options),
        ]
        variables = stack.enter_context(variables_file(env)) if env else None
        if variables is not None:
            words.append(f"--env-file=/dev/fd/{variables.fileno()}")
        command = stack.enter_context(Command(words, tasks, on_event, variables))
        status = command.wait()
    if len(command.results) < count or (count == 0 and status != 0):
        raise error_of(status, command, count)
    # With parallel=, they came in the order in which the tasks ended.
    return TaskResults(sorted(command.results, key=lambda result: result.input_index or 0))


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # no folder is writable: then in memory, which may be limited
        return open(os.memfd_create("hkrunner-inputs"), "w+b")


def _check(entry: Any, inputs: Any) -> None:
    """Raise SettingsError for what was hardly meant: a string or a dictionary as the list of inputs."""
    if callable(entry) and not isinstance(entry, os.PathLike):
        raise SettingsError(
            f"hkrunner.run() runs a file, and {entry!r} is no path; hkrunner.Pool(function) runs a function"
        )
    if entry is not None and not isinstance(entry, (str, os.PathLike)):
        raise SettingsError(f"entry wants the path of a file, not {entry!r}")
    check_text("entry", "" if entry is None else os.fspath(entry))
    if isinstance(inputs, (str, bytes, bytearray, Mapping)) or not _is_iterable(inputs):
        raise SettingsError(
            f"inputs wants a list with the input of each task, and got {type(inputs).__name__}: for one task,"
            " put it into a list of one"
        )


def _is_iterable(value: Any) -> bool:
    try:
        iter(value)  # an object with only __getitem__ can be iterated, too
    except TypeError:
        return False
    return True


def _write_tasks(file: IO[bytes], inputs: Iterable[Any]) -> int:
    count = 0
    lost: str | None = None  #: the place of the first number that JSON has not
    for value in inputs:
        text, is_converted = _json_of(value, f"inputs[{count}]")
        file.write(text.encode() + b"\n")
        if is_converted and lost is None and "null" in text:
            from ...sandbox.codec import not_finite  # late: most inputs need it not

            lost = not_finite.place_of_first(value, f"inputs[{count}]")
        count += 1
    if lost is not None:
        warnings.warn(f"{lost} is NaN or Infinity; JSON has neither, so the code gets None", stacklevel=3)
    file.seek(0)
    return count


def _json_of(value: Any, place: str) -> tuple[str, bool]:
    """Return an input as JSON, and whether it was converted as a result is. Raises SettingsError."""
    if codec.is_native(value, "json"):
        # What it refuses after all is behind the first values, or is a NaN: the conversion decides.
        with contextlib.suppress(TypeError, ValueError, RecursionError):
            return json.dumps(value, allow_nan=False, separators=(",", ":")), False
    try:
        return json.dumps(codec.plain(value, "json", place), allow_nan=False, separators=(",", ":")), True
    except codec.ResultInvalid as error:
        raise SettingsError(str(error)) from None


complete_signature(run)
