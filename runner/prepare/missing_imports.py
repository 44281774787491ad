"""Finds the modules that the code imports and that are not installed, without running the code.

Imports are followed from the entry through the modules next to it. Only top-level names are searched: to find
`a.b`, Python would have to run `a`.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...sandbox.child.requirements import unconditional_names

#: Number of files that are read, at most.
FILES_MAX = 200
SIZE_MAX = 4 * 1024 * 1024
#: Time limit for the algorithm's Python to search the names, on a busy machine with cold disks.
ANSWER_S = 20.0

#: The working folder is removed from sys.path for the imports of the program itself.
_PROBE = """
import sys
sys.path = [one for one in sys.path if one]
import json
from importlib.util import find_spec
names, folders = json.loads(sys.argv[1])
sys.path[:0] = folders
missing = []
for name in names:
    try:
        there = find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        there = True
    if not there:
        missing.append(name)
print("hkrunner-found " + json.dumps(missing))
"""
_DISTRIBUTIONS_PROBE = """
import importlib.metadata, json, sys
names, more = json.loads(sys.argv[1])
sys.path[:0] = more
versions = {}
for name in names:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print("hkrunner-found", json.dumps(versions))
"""


@dataclass(frozen=True)
class Import:
    """One import statement. `optional`: in a function, an `if` or a `try`, so it may not be needed."""

    module: str
    file: str
    line: int
    optional: bool

    @property
    def top(self) -> str:
        """The top-level name."""
        return self.module.partition(".")[0]


def imports_of(file: str, folder: str) -> list[Import]:
    """Return the imports of the file, and of the modules in the folder that it imports, in order."""
    waiting = [(file, False)]
    seen: set[str] = set()
    found: list[Import] = []
    while waiting and len(seen) < FILES_MAX:
        path, optional = waiting.pop(0)
        path = os.path.realpath(path)
        if path in seen:
            continue
        seen.add(path)
        tree = _parse(path)
        if tree is None:
            continue  # importing it in the child reports the reason
        for one, level in _imports(tree, path, optional=optional):
            beside = _beside(one.module, os.path.dirname(path) if level else folder)
            waiting += [(other, one.optional) for other in beside]
            if not beside and not level:
                found.append(one)
    return found


def _parse(path: str) -> ast.Module | None:
    try:
        with open(path, "rb") as stream:
            return ast.parse(stream.read(SIZE_MAX), path)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _imports(tree: ast.AST, path: str, *, optional: bool) -> Iterator[tuple[Import, int]]:
    """Yield each import with its level, in order. Generated code may be nested deeper than Python's stack."""
    waiting = [(tree, optional)]
    while waiting:
        node, optional = waiting.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, path, node.lineno, optional), 0
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield Import(node.module, path, node.lineno, optional), node.level
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(alias.name, path, node.lineno, optional), node.level
        inside = optional or isinstance(node, (ast.If, ast.Try, ast.FunctionDef, ast.AsyncFunctionDef))
        children = [one for one in ast.iter_child_nodes(node) if not isinstance(one, ast.expr)]
        waiting += [(one, inside) for one in reversed(children)]


def _beside(module: str, folder: str) -> list[str]:
    """Return the files of this module in the folder."""
    parts = module.split(".")
    files = []
    for count in range(1, len(parts) + 1):
        base = os.path.join(folder, *parts[:count])
        files += [one for one in (base + ".py", os.path.join(base, "__init__.py")) if os.path.isfile(one)]
    if not files and os.path.isdir(os.path.join(folder, parts[0])):
        return [os.path.join(folder, parts[0])]  # a folder without __init__.py is a package too
    return files


def unmet(lines: Sequence[str], *, python: str, folder: str, environ: Mapping[str, str]) -> list[str]:
    """Return which of these requirements this Python's packages do not meet; [] if it does not answer.

    Requirements with a marker are left out.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    names = [(name, line) for line in lines for name in unconditional_names([line])]
    wanted = [name for name, _ in names]
    versions = _ask(_DISTRIBUTIONS_PROBE, wanted, python=python, folder=folder, environ=environ)
    found: list[str] = []
    for name, line in names if isinstance(versions, dict) else ():
        version = versions.get(name)
        if version is None:
            found.append(name)
            continue
        try:
            required = Requirement(re.split(r"\s+--|\s+#", line)[0])
        except InvalidRequirement:  # pip knows more forms, as that of an editable one
            continue
        if not required.specifier.contains(version, prereleases=True):
            found.append(f"{name}{required.specifier} ({version} is)")
    return list(dict.fromkeys(found))


def missing(
    wanted: Sequence[Import], *, python: str, folder: str, environ: Mapping[str, str]
) -> list[Import]:
    """Return the imports that this Python does not find, [] if it does not answer. No module is run."""
    names = sorted({one.top for one in wanted})
    absent = set(_ask(_PROBE, names, python=python, folder=folder, environ=environ) or ())
    first: dict[str, Import] = {}
    for one in wanted:
        # Report each module once: its first import, or the first one that is not optional.
        if one.top in absent and (one.top not in first or first[one.top].optional > one.optional):
            first[one.top] = one
    return list(first.values())


def _ask(probe: str, names: Sequence[str], *, python: str, folder: str, environ: Mapping[str, str]) -> Any:
    """Return what the probe, run by this Python, finds out about these names; None if it does not answer."""
    env = dict(environ)
    more = [os.path.abspath(one) for one in env.pop("PYTHONPATH", "").split(os.pathsep) if one]
    if not names:
        return None
    try:
        asked = subprocess.run(
            [python, "-c", probe, json.dumps([names, [folder, *more]])],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=env,
            timeout=ANSWER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    _, _, told = asked.stdout.decode("utf-8", "replace").partition("hkrunner-found ")
    try:
        return json.loads(told)
    except ValueError:
        return None
