"""The folders of one recorded task: their size, and their removal."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import StoreError


def remove_folders(root: Path, folder: Path, metrics_dir: Path | None) -> None:
    """Both are gone. Metrics first: a task that is listed without them can be removed again."""
    try:
        if metrics_dir is not None and metrics_dir.is_symlink():
            metrics_dir.unlink()  # to a folder that the user has named, and keeps
            _remove_empty_parents(metrics_dir.parent, root / "runs")
        elif metrics_dir is not None and metrics_dir.exists():
            shutil.rmtree(metrics_dir)
            _remove_empty_parents(metrics_dir.parent, root / "runs")
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise StoreError(f"task {folder.name} cannot be removed completely: {error}") from error


def _remove_empty_parents(folder: Path, top: Path) -> None:
    while folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def measure(folder: Path) -> tuple[int, int]:
    """Return the bytes on disk below the folder, and the number of event files; links are not followed."""
    size = event_files = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below = measure(Path(entry.path))
                    size, event_files = size + below[0], event_files + below[1]
                else:
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    event_files += "tfevents" in entry.name
    except OSError:
        pass
    return size, event_files
