"""Finds the Python interpreter for the code, learns its version, and says why it cannot be used."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from typing import NamedTuple

from ..errors import SettingsError

#: The oldest Python that the files of sandbox/child support.
OLDEST = (3, 8)
#: Time limit for an interpreter to print its version, on a busy machine with cold disks.
ANSWER_S = 20.0
_ANSWER_MAX = 1 << 16
#: Runs on Python 2 too, so that it is refused as too old. The working folder is removed from sys.path, since
#: the child does not search it either.
_MARK = "hkrunner-probe"
_PROBE = (
    "import sys; v=sys.version_info; sys.path=[p for p in sys.path if p]\n"
    f"print('{_MARK} %d.%d.%d' % (v[0], v[1], v[2]))\n"
    "if v >= (3, 8):\n"
    "    from importlib.util import find_spec\n"
    "    print(' '.join(n for n in ('msgspec', 'bson', 'pymongo') if find_spec(n)))\n"
    "    import os, sysconfig\n"
    "    base = os.path.realpath(getattr(sys, '_base_executable', None) or sys.executable)\n"
    "    print(sys.implementation.cache_tag, sysconfig.get_platform(), base)\n"
    "    print('\\n'.join([sys.prefix, sys.base_prefix, sys.exec_prefix] + sys.path))\n"
)
#: Encoding -> modules that the child needs for it, and the package to install.
_NEEDED = {"bson": (("bson", "pymongo"), "pymongo"), "msgpack": (("msgspec",), "msgspec")}
#: Encoding -> packages that --install adds for it.
ENCODING_PACKAGES = {encoding: (package,) for encoding, (_, package) in _NEEDED.items()}


class Interpreter(NamedTuple):
    """A Python that can run the child. `has`: the optional packages that it can import (see _PROBE)."""

    path: str
    version: tuple[int, int, int]
    has: frozenset[str]
    build: str = ""  #: implementation, platform, and the program that virtual environments of it use
    paths: tuple[str, ...] = ()  #: where it and its packages lie

    @property
    def shown_version(self) -> str:
        """The version as text."""
        return ".".join(map(str, self.version))

    @property
    def environment(self) -> str | None:
        """The folder of its virtual environment; None if it is in none."""
        folder = os.path.dirname(os.path.dirname(self.path))
        return folder if os.path.isfile(os.path.join(folder, "pyvenv.cfg")) else None


def find_interpreter(given: str, cwd: str) -> str:
    """Return the path for a path, a virtual environment's folder, or a name on PATH.

    The path is not resolved: the python of a virtual environment is a link, whose location matters.
    Raises SettingsError.
    """
    path = os.path.abspath(os.path.join(cwd, os.path.expanduser(given)))
    if os.path.isdir(path):
        for name in ("python", "python3"):
            inside = os.path.join(path, "bin", name)
            if os.path.exists(inside):
                return inside
        raise SettingsError(f"--python {given}: this folder is no virtual environment: it has no bin/python")
    if os.path.exists(path) and (os.sep in given or not shutil.which(given)):
        return path
    found = shutil.which(given) if os.sep not in given else None
    if found is None:
        place = "" if os.sep in given else ", nor a program of that name on PATH"
        raise SettingsError(f"--python {given}: there is no such file{place}")
    return os.path.abspath(found)


def probe(given: str, cwd: str) -> Interpreter:
    """Return what the interpreter says about itself. Raises SettingsError if it cannot run the child."""
    path = find_interpreter(given, cwd)
    shown = given if given == path else f"{given} ({path})"
    # A sitecustomize module may print something first.
    answer, is_late = _ask(path, shown)
    _, _, told = answer.partition(_MARK)
    number, modules, build, *paths = [*told.strip().split("\n"), "", "", ""]
    try:
        major, minor, micro = (int(part) for part in number.split("."))
    except ValueError:
        why = f"it did not answer within {ANSWER_S:g} s" if is_late else "this is no Python interpreter"
        raise SettingsError(f"--python {shown}: {why}") from None
    if (major, minor) < OLDEST:
        raise SettingsError(
            f"--python {shown}: it is Python {number}, too old; {OLDEST[0]}.{OLDEST[1]} or newer is needed"
        )
    found = tuple(filter(None, paths))
    return Interpreter(path, (major, minor, micro), frozenset(modules.split()), build, found)


def _ask(path: str, shown: str) -> tuple[str, bool]:
    """Return the beginning of what the program prints, and whether it was killed at the time limit."""
    try:
        asked = subprocess.Popen(
            [path, "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except PermissionError:
        raise SettingsError(f"--python {shown}: it cannot be executed: permission denied") from None
    except OSError as error:
        raise SettingsError(f"--python {shown}: it cannot be executed: {error.strerror}") from None
    assert asked.stdout is not None
    deadline = time.monotonic() + ANSWER_S
    told = b""
    with asked.stdout as stream:
        while len(told) < _ANSWER_MAX:
            ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(stream.fileno(), _ANSWER_MAX) if ready else b""
            if not data:
                break
            told += data
    is_whole = len(told) < _ANSWER_MAX
    try:
        asked.wait(max(0.0, deadline - time.monotonic()) if is_whole else 0)
    except subprocess.TimeoutExpired:
        asked.kill()
        asked.wait()
        return told.decode("utf-8", "replace"), is_whole
    return told.decode("utf-8", "replace"), False


def check_encoding(interpreter: Interpreter, encoding: str) -> None:
    """Raise SettingsError when this interpreter cannot read the worker's messages; json always works.

    The child decodes and encodes HKube's messages itself: converting them here would double the cost of every
    task.
    """
    needed, package = _NEEDED.get(encoding, ((), ""))
    if any(one not in interpreter.has for one in needed):
        raise SettingsError(
            f"--encoding {encoding} needs {package} in the algorithm's Python:"
            f" {interpreter.path} -m pip install {package}, or --encoding json, which needs nothing"
        )


def variables(interpreter: Interpreter, path: str) -> dict[str, str]:
    """Return the variables that activate the interpreter's virtual environment. `path`: PATH without it."""
    folder = interpreter.environment
    if folder is None or interpreter.path == sys.executable:
        return {}
    programs = os.path.dirname(interpreter.path)
    return {"VIRTUAL_ENV": folder, "PATH": os.pathsep.join([programs, path] if path else [programs])}
