"""The code of an error of the user's code, and the clause about what helps against it.

Runs in the child, on Python 3.8 and newer. Nothing that belongs to the exception is trusted, as in
exception_report.py.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
from types import ModuleType
from typing import Any, Optional

from . import isolation_hints
from .exception_fields import (
    CHAIN_MAX,
    before,
    causes_of,
    errno_of,
    exact,
    field,
    is_a,
    last_entries,
    leaves_of,
    members_of,
    name_of,
    traceback_of,
)

#: Texts of asyncio's and trio's errors where asyncio awaits what only trio can run, and of trio's where
#: nothing of it runs.
_OUTSIDE_OF_TRIO = (
    "Task got bad yield: <class 'trio.",
    "'RunContext' object has no attribute 'runner'",
)
_NO_TRIO = "must be called from async context"
#: Python's text where a list is read like a dict.
_NO_DICT = "list indices must be integers or slices, not str"


def _is_signal_denied(error: BaseException) -> bool:
    return errno_of(PermissionError, error) == errno.EPERM and field(OSError, "filename", error) is None


def is_about_memory(error: Optional[BaseException]) -> bool:
    """Whether the error, one that it was raised from, or one in its group, is an allocation that failed.
    Never raises."""
    waiting = [] if error is None else [error]
    for _ in range(CHAIN_MAX):
        if not waiting:
            return False
        one = waiting.pop()
        if is_a(one, MemoryError) or errno_of(OSError, one) == errno.ENOMEM:
            return True
        waiting += members_of(one)[:CHAIN_MAX]
        link = before(one)
        if link is not None:
            waiting.append(link[0])
    return False


def import_code(error: BaseException) -> str:
    """Return the code for code that cannot be imported: a memory limit is named before that. Never raises."""
    code = "IMPORT_FAILED"
    if is_about_memory(error) and resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY:
        code = "MEMORY_ERROR"
    return code


def code_of(error: BaseException) -> str:
    """Return the code for an error that start() or init() has raised."""
    if is_about_memory(error):
        return "MEMORY_ERROR"
    if errno_of(OSError, error) in (errno.EMFILE, errno.ENFILE):
        return "TOO_MANY_FILES"
    if _is_signal_denied(error):
        return "DENIED"
    return "ALGORITHM_ERROR"


def hint_of(error: BaseException, text: str, folder: str) -> str:
    """Return what helps against this error, or the limit that it ran into, where there is one to name."""
    if is_a(error, ModuleNotFoundError):
        try:
            from . import requirements  # late: few runs need it, and each start would take 0.2 ms longer
        except Exception:  # noqa: BLE001 - the user's code may have changed how modules are found
            return ""
        module = field(ImportError, "name", error)
        entry = os.environ.get("_HKRUNNER_ENTRY_FILE", "")
        missing = exact(module) if is_a(module, str) else None
        return requirements.hint(missing, folder, interpreter(), entry) + isolation_hints.hint_of_import()
    if is_a(error, AttributeError) and "on <module '__main__'" in text:
        file = os.path.basename(os.environ.get("_HKRUNNER_ENTRY_FILE", "")) or "the algorithm"
        return f"; the pickle is of a script, which it calls __main__: define or import its names in {file}"
    if text.startswith(_OUTSIDE_OF_TRIO):
        return "; what start() returns is awaited by asyncio: call trio.run(...) in a plain start()"
    if text.startswith(_NO_TRIO):
        return "; trio runs it only within trio.run(...)"
    shadowing = _shadowing(error, folder)
    if shadowing:
        return f"; {shadowing} has the name of a module of the standard library: rename it"
    number = errno_of(OSError, error)
    if number == errno.EMFILE:
        return f"; {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} open files are allowed (--files)"
    refused = _sandbox_hint(error, text)
    if refused:
        return refused
    if _is_signal_denied(error):
        return "; an algorithm may send signals to its own processes only"
    if is_a(error, TypeError) and text == _NO_DICT and _is_raised_in_start(error):
        return '; args["input"] is a list, also for a single value: that is args["input"][0]'
    if is_a(error, KeyError) and _is_of_the_input(error):
        return '; the input is in args["input"], a list: that is args["input"][0]' + f"[{text}]"
    if "source code string cannot contain null bytes" in text:
        return _hint_of_encoding(error)
    if is_a(error, EOFError) and (text == "EOF when reading a line" or _is_raised_in(error, "getpass.py")):
        return "; its stdin is empty: values come as its input; `hkrunner run --in-process` has the terminal"
    if name_of(error) == "BdbQuit" and _is_raised_in(error, "bdb.py"):
        return "; a debugger has the terminal with --in-process only"
    if is_a(error, SystemExit) and _is_raised_in(error, "argparse.py", os.path.join("click", "core.py")):
        return '; its command line has no arguments: values come by --input, as args["input"]'
    if number == errno.ENOENT:
        return _hint_of_folder(field(OSError, "filename", error))
    if number == errno.EFBIG:
        return "; the size of a file is limited"
    if number == errno.ENOSPC:
        return "; the disk is full"
    return ""


def _hint_of_encoding(error: BaseException) -> str:
    """Return how the file that an import has read is to be saved, "" where the text is of no import.

    An `import` leaves no frame of the import system: the last is that of the file that has the `import`.
    """
    trace = last_entries(traceback_of(error), 1)
    if trace is None:
        return ""
    code, at = trace.tb_frame.f_code, trace.tb_lasti
    which = "file" if code.co_filename.startswith("<frozen importlib") else ""
    if not which and at >= 0:
        try:
            from opcode import opmap  # late: few errors are such
        except Exception:  # noqa: BLE001 - a file of the user's may have this name, and raise anything
            return ""
        which = "imported file" if code.co_code[at : at + 1] == bytes((opmap.get("IMPORT_NAME", 0),)) else ""
    return f"; Python reads UTF-8: save the {which} as that (it may be UTF-16)" if which else ""


def _hint_of_folder(name: Any) -> str:
    """Return where a missing file is, if that is the folder in which hkrunner was started; else ""."""
    started = os.environ.get("PWD", "")
    if not started or not is_a(name, str) or os.path.isabs(exact(name)):
        return ""
    path = os.path.normpath(os.path.join(started, exact(name)))
    try:
        return (
            f"; the working folder is {os.getcwd()}, and the file is {path}" if os.path.exists(path) else ""
        )
    except (OSError, ValueError):  # the working folder was removed, or the name has a null
        return ""


def _is_raised_in_start(error: BaseException) -> bool:
    trace = last_entries(traceback_of(error), 1)
    return trace is not None and exact(trace.tb_frame.f_code.co_name) == "start"


def _is_of_the_input(error: BaseException) -> bool:
    """Whether start() has asked its arguments for a key that the first value of the input has."""
    trace, args = last_entries(traceback_of(error), 1), field(BaseException, "args", error)
    if trace is None or not _is_raised_in_start(error) or len(args) != 1 or type(args[0]) is not str:
        return False
    frame = trace.tb_frame
    task = frame.f_locals.get(frame.f_code.co_varnames[0]) if frame.f_code.co_argcount else None
    values = task.get("input") if type(task) is dict and args[0] not in task else None
    return type(values) is list and bool(values) and type(values[0]) is dict and args[0] in values[0]


def _shadowing(error: BaseException, folder: str) -> str:
    """Return the user's file that a library got instead of a module of Python's, "" where none is missed."""
    name: Any = None
    path: Any = None
    if is_a(error, ImportError):
        name, path = field(ImportError, "name", error), field(ImportError, "path", error)
    elif is_a(error, AttributeError) and "obj" in AttributeError.__dict__:  # Python 3.10
        module = field(AttributeError, "obj", error)
        if type(module) is ModuleType:
            name, path = vars(module).get("__name__"), vars(module).get("__file__")
    if not is_a(name, str) or not is_a(path, str):
        return ""
    file = f"{exact(name)}.py"
    is_shadowed = exact(name) in getattr(sys, "stdlib_module_names", ())
    return file if is_shadowed and exact(path) == os.path.join(folder, file) else ""


def _sandbox_hint(error: BaseException, text: str) -> str:
    """Return the clause about the first error of the chain, or in its groups, that comes of the sandbox.

    Libraries wrap it.
    """
    for one in [error, *(cause for cause, _ in causes_of(error)), *leaves_of(error)]:
        number, filename = (
            errno_of(OSError, one),
            field(OSError, "filename", one) if is_a(one, OSError) else None,
        )
        found = ""
        if number == errno.ENOENT and _is_raised_in(one, "subprocess.py"):
            found = isolation_hints.hint_of_program(filename)
        elif number:
            found = isolation_hints.hint(number, filename, name_of(one))
        elif name_of(one) == "CalledProcessError":
            fields = object.__getattribute__(one, "__dict__")
            found = isolation_hints.hint_of_output(fields.get("stderr") or fields.get("output"))
        elif is_a(one, KeyError) and _is_raised_in(one, "os.py", "<frozen os>"):
            found = isolation_hints.hint_of_variable(field(BaseException, "args", one))
        if found:
            return found
    return isolation_hints.hint_of_text(text, name_of(error))


def _is_raised_in(error: BaseException, *files: str) -> bool:
    """Whether the error comes of a module whose file has one of these names, or these ends of a path.

    A program that could not be started, for one, looks like a file that could not be opened.
    """
    last = last_entries(traceback_of(error), 1)
    return last is not None and (os.sep + last.tb_frame.f_code.co_filename).endswith(
        tuple(os.sep + file for file in files)
    )


def interpreter() -> str:
    """Return the interpreter's path, for messages about missing modules."""
    return sys.executable or "python"
