"""Data sources of a local run: folders, by their name in --datasource."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Mapping
from typing import Any

from ...sandbox.linux.walk_tree import walk_tree

#: Most files of a data source: they are listed in one go, while the loop waits.
FILES_MAX = 100_000


class SourceError(Exception):
    """There is no such data source; the text is that of HKube's worker."""


def find(sources: Mapping[str, str], wanted: Any) -> dict[str, Any]:
    """Return id, name and files of the source that {"dataSourceId": …} or {"snapshotId": …} names."""
    asked = wanted if isinstance(wanted, dict) else {}
    name = asked.get("dataSourceId") or asked.get("snapshotId")
    if not name:
        raise SourceError("unable to find matching data-source")
    folder = sources.get(str(name))
    if folder is None:
        raise SourceError(f"could not find dataSource:{name}")
    return {"id": str(name), "name": str(name), "files": _files(str(name), folder)}


def _files(name: str, folder: str) -> list[dict[str, Any]]:
    found = []
    for place, folders, files in walk_tree(folder, _unreadable):
        folders[:] = sorted(one for one in folders if not one.startswith("."))  # .git, .dvc are no data
        for file in sorted(files):
            path = os.path.join(place, file)
            try:
                size = os.stat(path).st_size
            except OSError:
                continue  # a broken link, or removed meanwhile
            kind = mimetypes.guess_type(file)[0] or "application/octet-stream"
            found.append(
                {"id": os.path.relpath(path, folder), "name": file, "path": path, "size": size, "type": kind}
            )
            if len(found) > FILES_MAX:
                raise SourceError(
                    f"dataSource {name} has more than {FILES_MAX:,} files; a local run lists no more"
                )
    return found


def _unreadable(error: OSError) -> None:
    raise SourceError(f"cannot read {error.filename}: {error.strerror}")
