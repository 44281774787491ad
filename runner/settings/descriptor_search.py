"""Where the descriptor of an algorithm is looked for, when none is named."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..errors import SettingsError

NAMES = ("algorithm.yml", "algorithm.yaml", "algorithm.json")


def find(entry: str | None, path: str | None, cwd: str) -> str | None:
    """Return the descriptor to use when none is named, None if there is none.

    Searched next to the entry, then in --path, then in the working folder if the code is below it. In each:
    `<entry>.yaml` (the name in hkubectl's template) if it looks like a descriptor, then algorithm.yml, .yaml
    and .json.
    """
    for folder, stem in _places(entry, path, cwd):
        for name in (f"{stem}.yaml", f"{stem}.yml") if stem else ():
            file = os.path.join(folder, name)
            # train.yaml next to train.py may be any file.
            if name not in NAMES and os.path.isfile(file) and _looks_like_one(file):
                return file
        for name in NAMES:
            file = os.path.join(folder, name)
            if os.path.isfile(file):
                return file
    return None


def _places(entry: str | None, path: str | None, cwd: str) -> Iterator[tuple[str, str]]:
    base = os.path.join(cwd, os.path.expanduser(path)) if path else cwd
    inside = True
    if entry is not None:
        name = without_function(entry)
        for folder in (base, cwd):
            found = os.path.join(folder, os.path.expanduser(name))
            if os.path.isdir(found):
                yield found, ""
            elif os.path.isfile(found) or os.path.isfile(found + ".py"):
                yield os.path.dirname(found), os.path.splitext(os.path.basename(found))[0]
            else:
                continue
            inside = is_below(found, cwd)
            break
    if path:
        yield base, ""
    if inside:
        yield cwd, ""


def without_function(entry: str) -> str:
    """Return `file.py` of `file.py:function`."""
    name, colon, function = entry.rpartition(":")
    return name if colon and function.isidentifier() else entry


def is_below(path: str, folder: str) -> bool:
    """Whether the path is the folder or below it."""
    inside = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
    return inside != os.pardir and not inside.startswith(os.pardir + os.sep)


def _looks_like_one(file: str) -> bool:
    # Late, as descriptor.py is: most runs have no descriptor, and YAML and the schema cost a start 2 ms.
    from .descriptor_parser import parse
    from .descriptor_schema import ONE_OF

    try:
        value, _ = parse(file, os.path.basename(file))
    except SettingsError:
        return False
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return False
    return value.get("env") in ONE_OF["env"] or any(
        key in value for key in ("code", "resources", "entryPoint", "algorithmImage", "mem")
    )
