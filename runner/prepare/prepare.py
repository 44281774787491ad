"""Completes Settings for a run: finds and unpacks the code, checks the interpreter, chooses free GPUs.

Everything that looks at the machine or writes to it before the first process is started is here, so that a
run, a dry run and a validation find the same.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...sandbox.codec import SOCKET_IO
from ...sandbox.shared.entry import EntryError, Location, locate
from ..errors import EntryNotFound
from ..settings.descriptor_search import is_below, without_function
from ..settings.settings import Settings

if TYPE_CHECKING:
    from ..settings.descriptor_schema import Descriptor
    from .installation import InstallProgress
    from .program import Program


#: Beginnings of the names of temporary folders: for the code of an archive, and for metrics.
UNPACKED = "hkrunner-code-"
METRICS = "hkrunner-metrics-"


def prepare(
    settings: Settings,
    environ: Mapping[str, str],
    stack: contextlib.ExitStack,
    *,
    runs: bool = True,
    progress: InstallProgress | None = None,
    where: Location | None = None,
) -> tuple[Settings, Location]:
    """Return the settings to run with, and the location of the code. Raises HkrunnerError.

    `stack` gets the callbacks that clean up at the end. `runs`: whether tasks will run, which need a folder
    for metrics. `progress` shows what --install does; None: nothing is installed. `where`: the location of
    the code, where that is known.
    """
    program = None if where is not None else _program(settings, environ, stack)
    where = where or (program.where if program is not None else place(settings, stack))
    if settings.sandbox is not None:
        from .sandbox_policy import check_sandbox  # late: most runs have none

        check_sandbox(settings, where, is_program=program is not None)
    more = _metrics(settings, environ, stack) if runs else {}
    temporary = (*more.values(), *_unpacked_for_this_run(settings, where))
    if temporary:
        settings = settings._replace(code=settings.code._replace(temporary_folders=temporary))
    if program is not None:
        code = settings.code._replace(argv=program.argv, takes_any_encoding=program.takes_any_encoding)
        settings = settings._replace(code=code)
        if settings.serving.encoding == SOCKET_IO:  # a program of the user's need not know it
            settings = settings._replace(serving=settings.serving._replace(encoding="json"))
        more.update(program.variables)
    else:
        settings = with_python(settings, where, environ, stack, progress)
    more.update(_gpus(settings, environ))
    if more:
        code = settings.code._replace(variables={**settings.code.variables, **more})
        settings = settings._replace(code=code)
    options = {**settings.records.options, **_found(settings, where)}
    return settings._replace(records=settings.records._replace(options=options)), where


def with_python(
    settings: Settings,
    where: Location,
    environ: Mapping[str, str],
    stack: contextlib.ExitStack,
    progress: InstallProgress | None,
) -> Settings:
    """Return the settings with the Python for this code, and the variables of its virtual environment.

    With --install it is that of an environment, which is made if it is missing and `progress` is not None.
    Raises SettingsError, InstallFailed.
    """
    if settings.code.install:
        settings = _installed(settings, where, environ, stack, progress)
    if settings.code.python == sys.executable:
        return settings
    # Late: most runs use hkrunner's own interpreter.
    from .interpreter import check_encoding, probe, variables

    interpreter = probe(settings.code.python, settings.code.cwd)
    check_encoding(interpreter, settings.task_encoding)
    more = variables(interpreter, settings.code.variables.get("PATH", environ.get("PATH", "")))
    code = settings.code._replace(
        python=interpreter.path,
        python_paths=interpreter.paths,
        variables={**settings.code.variables, **more},
    )
    return settings._replace(code=code)


def _installed(
    settings: Settings,
    where: Location,
    environ: Mapping[str, str],
    stack: contextlib.ExitStack,
    progress: InstallProgress | None,
) -> Settings:
    from .installation import installation_for
    from .requirement_sources import not_read

    descriptor = settings.code.descriptor
    notes = settings.console.notes
    if descriptor is not None and descriptor.fields.get("dependencyInstallCmd"):
        at = descriptor.at("/dependencyInstallCmd")
        notes = (*notes, f"{at}: --install does not run dependencyInstallCmd, which HKube's build runs")
        settings = settings._replace(console=settings.console._replace(notes=notes))
    found = installation_for(settings.code, where, settings.task_encoding, environ)
    if found is None:
        note = (
            f"--install: nothing to install: {where.shown} has no inline metadata, and there is no"
            f" requirements.txt, nor pyproject.toml with dependencies, in {where.folder}"
        )
        if others := not_read(where, settings.code.cwd):
            note += f"; not read: {', '.join(others)}: list what the code requires in requirements.txt"
        return settings._replace(console=settings.console._replace(notes=(*notes, note)))
    made = found.existing if progress is None else found.environment(environ, stack, progress)
    asked = settings.code.base_python or settings.code.python
    code = settings.code._replace(
        python=found.base.path if made is None else made.python,
        base_python=asked if asked == sys.executable else found.base.path,
    )
    return settings._replace(code=code)


def _metrics(settings: Settings, environ: Mapping[str, str], stack: contextlib.ExitStack) -> dict[str, str]:
    """Return a temporary folder for metrics if there are no records: user code expects one."""
    name = "ALGO_METRICS_DIR"
    if settings.records.state_dir is not None or name in settings.code.variables or environ.get(name):
        return {}
    try:
        folder = temporary_folder(os.path.abspath(environ.get("TMPDIR") or "/tmp"), METRICS, stack)
    except OSError:
        return {}
    return {name: folder}


def temporary_folder(root: str, prefix: str, stack: contextlib.ExitStack) -> str:
    """Make a folder that `stack` removes, with those that SIGKILL has left of others. Raises OSError."""
    from ...sandbox.linux.abandoned import remove_abandoned, signed_name  # late: not with a state folder

    folder = os.path.join(root, signed_name(prefix))
    stack.callback(remove_abandoned, root, prefix)
    stack.callback(_remove, folder)  # first: a signal may end us in between; the name is this process's alone
    os.mkdir(folder, 0o700)
    return folder


def _unpacked_for_this_run(settings: Settings, where: Location) -> tuple[str, ...]:
    """Return the temporary folder that holds the code of an archive, if there is one."""
    descriptor = settings.code.descriptor
    if settings.records.state_dir is not None or descriptor is None or descriptor.code_path is None:
        return ()
    if not os.path.isfile(descriptor.code_path):
        return ()
    import tempfile  # imported already, to make the folder

    root = tempfile.gettempdir()
    name = os.path.relpath(where.folder, root).split(os.sep)[0]
    return (os.path.join(root, name),) if name.startswith(UNPACKED) else ()


def _remove(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:
        from ...sandbox.linux.remove_tree import remove_tree  # late: only needed if metrics were written

        remove_tree(folder)


def _found(settings: Settings, where: Location) -> dict[str, object]:
    """Return option values that lead to this code, its descriptor and its interpreter from any folder."""
    if settings.code.command is not None:
        return {"command": settings.code.command, "path": where.folder}
    found: dict[str, object] = {"entry": where.file, "path": where.folder}
    if not where.file or os.path.basename(where.file) == "__init__.py":
        found["entry"] = where.module
    descriptor = settings.code.descriptor
    if descriptor is not None:
        found["file"] = descriptor.file
        if descriptor.code_path is not None and os.path.isfile(descriptor.code_path):
            unpacked = os.path.join(settings.records.state_dir or "", "code")
            if is_below(where.folder, unpacked):
                # Record the archive instead of the unpacked code: its content may change.
                found = {"entry": where.shown, "file": descriptor.file}
    if where.function != "start":
        found["entry"] = f"{found['entry']}:{where.function}"
    python = settings.code.base_python or settings.code.python
    if python != sys.executable:
        found["python"] = python
    return found


def _gpus(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    name = "CUDA_VISIBLE_DEVICES"
    if settings.gpus.none:
        return {name: ""}
    if not settings.gpus.number or name in settings.code.variables:
        return {}
    from .gpu import choose

    return {name: choose(settings.gpus.number, settings.gpus.set_by, environ.get(name))}


def _program(settings: Settings, environ: Mapping[str, str], stack: contextlib.ExitStack) -> Program | None:
    """Return the program that is the algorithm; None: it is Python code. Raises HkrunnerError."""
    code, descriptor = settings.code, settings.code.descriptor
    if code.command is None and (descriptor is None or descriptor.env == "python"):
        return None
    from .program import of_command, of_descriptor  # late: most algorithms are in Python

    if code.command is not None:
        return of_command(code.command, code.path, settings, environ)
    assert descriptor is not None, "its environment is another one"
    entry, folder = code.entry or descriptor.entry, code.path
    if folder is None:
        folder = _root(settings, descriptor, stack)
    folder = os.path.abspath(os.path.join(code.cwd, os.path.expanduser(folder)))
    return of_descriptor(descriptor.env, descriptor.at("/env"), folder, entry, settings, environ)


def place(settings: Settings, stack: contextlib.ExitStack) -> Location:
    """Return the location of the code, unpacked if needed. Raises EntryNotFound or SettingsError."""
    entry, path = settings.code.entry, settings.code.path
    if settings.code.descriptor is not None and path is None:
        entry, path = _of_descriptor(settings, settings.code.descriptor, stack)
    elif settings.code.descriptor is not None and entry is None:
        entry = settings.code.descriptor.entry
    try:
        return locate(entry, path, settings.code.cwd)
    except EntryError as error:
        hint = _wrapped(path) if path is not None and settings.code.descriptor is not None else ""
        raise EntryNotFound(f"{error.code}: {error}{hint}") from None


def _of_descriptor(
    settings: Settings, descriptor: Descriptor, stack: contextlib.ExitStack
) -> tuple[str | None, str | None]:
    """Return the entry, and the folder of the code.

    An entry that was named and exists is run, in the descriptor's folder of code if it is below that. The
    descriptor's own entry is used if the descriptor was named (--file), or if no entry was.
    """
    entry = settings.code.entry
    if entry is not None and not settings.code.is_descriptor_named:
        name = without_function(entry)
        given = os.path.join(settings.code.cwd, os.path.expanduser(name))
        if os.path.isdir(given):
            # A folder that contains its descriptor, which names the entry.
            function = entry[len(name) :]
            if descriptor.entry is None and not function:
                return entry, None
            return (descriptor.entry or "main.py") + function, _root(settings, descriptor, stack)
        if os.path.exists(given) or os.path.exists(given + ".py"):
            code = descriptor.code_path
            inside = code is not None and os.path.isdir(code) and is_below(given, code)
            return os.path.abspath(given) + entry[len(name) :], code if inside else None
    return entry if entry is not None else descriptor.entry, _root(settings, descriptor, stack)


def _root(settings: Settings, descriptor: Descriptor, stack: contextlib.ExitStack) -> str:
    code = descriptor.code_path
    if code is None:
        return descriptor.folder
    if os.path.isdir(code):
        return code
    at = descriptor.at("/code/path")
    if not os.path.exists(code):
        raise EntryNotFound(f"ENTRY_NOT_FOUND: {at}: code.path: there is no {code}")
    from .code_archive import unpack

    if settings.records.state_dir is not None:
        cache = os.path.join(settings.records.state_dir, "code")
    else:
        import tempfile  # late: it imports random and shutil, for a rare case

        cache = temporary_folder(tempfile.gettempdir(), UNPACKED, stack)
    return unpack(code, cache)


def _wrapped(root: str) -> str:
    """Return a hint for a common mistake: the archive contains the folder of the code, not the code."""
    try:
        names = [name for name in os.listdir(root) if not name.startswith(".")]
    except OSError:
        return ""
    if len(names) != 1 or not os.path.isdir(os.path.join(root, names[0])):
        return ""
    return f"; it contains only the folder {names[0]}: the root of code.path must be the code itself"
