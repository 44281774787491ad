"""Walk a folder, however deep: os.walk() is recursive before Python 3.12."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator


def walk_tree(
    folder: str, on_error: Callable[[OSError], object] = lambda error: None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each folder from the top down, with the names of the folders and of all else in it.

    As by os.walk(): links to folders are among the folders and are not followed, names that the caller
    removes from the list of folders are left out, and what cannot be read is passed to `on_error`.
    """
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        folders: list[str] = []
        names: list[str] = []
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else names).append(entry.name)
        except OSError as error:
            on_error(error)
            continue
        yield place, folders, names
        below = (os.path.join(place, name) for name in reversed(folders))
        waiting += [path for path in below if not os.path.islink(path)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to where this user may not look
        return False
