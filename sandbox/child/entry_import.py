"""Imports the user's code under a name that the processes it spawns find as well.

Its folder is first on sys.path and is the working folder, as in HKube, so `import helper` finds the helper
beside it. An ordinary entry is a top-level module, found by its file's name. An entry that says
`from . import helper` needs a package: then the folder is one, with its `__init__.py` run first if it has
one. The package has the folder's name, or `algorithm_unique_folder` where that cannot be imported; the same
package holds an entry whose own name cannot be: io.py, which is taken, or alg.v2.py, which has a dot.

What the entry defines is pickled as this name and that of the function. Spawned processes of multiprocessing
and loky get a copy of sys.path and of the environment, and import the name; they do not run start.py's main.
Python 3.8 and newer.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import sys
from importlib.machinery import ModuleSpec
from typing import FrozenSet, List, Optional, Sequence, Tuple

from ..shared.entry import Entry, EntryError, Location, entry_of

#: The package for the algorithm's folder, and where it is found.
STAND_IN = "algorithm_unique_folder"
IMPORTABLE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "importable")


def load(where: Location, *, bare: FrozenSet[str], python_path: List[str]) -> Entry:
    """Import the entry and return its functions.

    `bare`: names of the modules a bare interpreter has, which no file of the user's can stand in for.
    Raises EntryError for what is missing; what the user's code itself raises passes through.
    """
    sys.path[:0] = [where.folder, *python_path]
    make_way(where.folder, bare)
    name, folder = _name(where)
    # For the stand-in package, and for `__main__`, in this process and in those that it spawns.
    os.environ["_HKRUNNER_ENTRY"] = name
    os.environ["_HKRUNNER_ENTRY_FILE"], os.environ["_HKRUNNER_ENTRY_FOLDER"] = where.file, folder
    if where.file and not os.path.lexists(where.file):  # it was there when hkrunner began
        raise EntryError("ENTRY_NOT_FOUND", f"{where.shown} is not in {where.folder} any more")
    try:
        return entry_of(importlib.import_module(name), where)
    except ModuleNotFoundError as error:
        # It counts as a module only because there is no such file, and may be a mistyped name of a file.
        if where.file or not f"{name}.".startswith(f"{error.name}."):
            raise
        python = sys.executable or "python"
        raise EntryError(
            "ENTRY_NOT_FOUND",
            f"no file {name} in {where.folder}, and no module {error.name} is installed (python: {python})",
        ) from None


@functools.lru_cache(maxsize=1)
def _modules_in(folder: str) -> FrozenSet[str]:
    """Names that `import` may find in the folder; raises OSError."""
    return frozenset(name.partition(".")[0] for name in os.listdir(folder))


def stands_in(folders: Sequence[str], names: FrozenSet[str]) -> bool:
    """Whether a file there may be imported in place of a module of the standard library, or of `names`."""
    library: FrozenSet[str] = getattr(sys, "stdlib_module_names", frozenset())
    if not library:
        return True  # before Python 3.10 this is not known
    try:
        return any(not _modules_in(folder).isdisjoint(library | names) for folder in folders)
    except OSError:
        return True


def make_way(folder: str, bare: FrozenSet[str]) -> None:
    """Forget modules we have imported for ourselves that the user's folder has files of the same name for.

    Our own code keeps the ones it holds; the user's `import json` then finds the user's json.py, as it
    would in a plain interpreter.
    """
    try:
        own = _modules_in(folder)
    except OSError:
        return
    for name in list(sys.modules):
        top = name.partition(".")[0]
        if top in own and name not in bare and top not in bare and top != "_hkrunner":
            del sys.modules[name]


def _name(where: Location) -> Tuple[str, str]:
    """Return the name to import the entry by, and the folder of its package; sys.path is prepared for it."""
    name = where.module
    if not where.file:
        return name, where.folder
    is_found = _is_found_by_name(where)
    package = STAND_IN
    if _needs_package(where):
        package = _package_of(where)
    elif is_found and ("." in name or name not in sys.modules):
        return name, where.folder
    if package == STAND_IN:
        sys.path.insert(1, IMPORTABLE)
    if is_found:
        return f"{package}.{name}", where.folder
    folder, file = os.path.split(where.file)
    return f"{STAND_IN}.{file[:-3].replace('.', '_')}", folder


def _is_found_by_name(where: Location) -> bool:
    """Whether importing the dotted name ends at the file: not if a folder's or the file's name has a dot."""
    path = os.path.join(where.folder, *where.module.split("."))
    return where.file in (path + ".py", os.path.join(path, "__init__.py"))


def _needs_package(where: Location) -> bool:
    """Whether the entry can only be imported as a part of its folder."""
    if _is_taken(where):
        return True
    init = os.path.join(where.folder, "__init__.py")
    try:
        if os.path.exists(init) and os.path.getsize(init) > 0:
            return True
        with open(where.file, "rb") as file:
            relative = re.search(rb"^[ \t]*from[ \t]+\.", file.read(), re.MULTILINE)
    except OSError:
        return False
    return relative is not None and "." not in where.module


def _is_taken(where: Location) -> bool:
    """A folder of the user's without an __init__.py cannot be imported as `code` or `test`: a module of that
    name anywhere on the path goes before it. HKube imports it below its own package, where it is alone."""
    top, dot, _ = where.module.partition(".")
    spec = _spec(top) if dot else None
    return spec is not None and spec.origin is not None and not spec.origin.startswith(where.folder + os.sep)


def _package_of(where: Location) -> str:
    """Return the folder's own name if processes that get our sys.path find it, else the stand-in's."""
    parent, name = os.path.split(where.folder)
    if _is_taken(where) or not _is_found_by_name(where) or not name.isidentifier() or name in sys.modules:
        return STAND_IN
    sys.path.append(parent)
    spec = _spec(name)
    if spec is not None and list(spec.submodule_search_locations or ()) == [where.folder]:
        return name
    sys.path.pop()
    return STAND_IN


def _spec(name: str) -> Optional[ModuleSpec]:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
