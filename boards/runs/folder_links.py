"""Which links among a task's metrics are followed: user code can make one that leads to /."""

from __future__ import annotations

import itertools
import os

from .folders import files_below

_MAX_FILES = 200_000  # that are looked at for links


def linked_folders(folder: str) -> list[str]:
    """Return the links in the folder itself, to folders: a cluster's shared folder is one.

    Those that lead to a folder above, as to /, are left out.
    """
    try:
        with os.scandir(folder) as entries:
            links = [entry for entry in entries if entry.is_symlink()]
    except OSError:
        return []
    return [one.path for one in links if _is_folder(one) and not _leads_above(one.path)]


def find_stray_link(folder: str) -> str | None:
    """Return the path from the folder of a link that a program must not follow; None if there is none.

    Such a link leads to a folder above itself, or is deeper down and leads out of the folder. A link to
    another place in the folder may be followed.
    """
    if not any(entry.is_symlink() for entry in itertools.islice(files_below(folder), _MAX_FILES)):
        return None  # as in almost all folders
    linked = linked_folders(folder)
    places = [os.path.realpath(one) for one in (folder, *linked)]
    below = itertools.chain.from_iterable(map(files_below, (folder, *linked)))
    for entry in itertools.islice(below, _MAX_FILES):
        if entry.is_symlink() and entry.path not in linked and _is_folder(entry):
            target = os.path.realpath(entry.path)
            is_inside = any(target == one or target.startswith(f"{one}/") for one in places)
            if not is_inside or _leads_above(entry.path):
                return entry.path[len(folder) + 1 :]
    return None


def _leads_above(link: str) -> bool:
    """Whether the link leads to a folder that contains it: to follow it never ends."""
    target, own = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return os.path.commonpath([target, own]) == target


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
