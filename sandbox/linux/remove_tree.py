"""Remove a folder with its content, which code that has ended may have made hard to remove."""

from __future__ import annotations

import os


def remove_tree(folder: str) -> OSError | None:
    """Remove the folder; return the first error if something stays. Links are removed, not followed.

    Its folders may be unreadable, and deeper than a path can name or a function can call itself: so each one
    is moved to the top before it is emptied.
    """
    mark, moved = os.urandom(8).hex(), 0
    failed: set[str] = set()
    first: OSError | None = None
    while below := [entry for entry in _entries(folder) if entry.name not in failed]:
        for entry in below:
            try:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                for inner in _entries(entry.path):
                    if inner.is_dir(follow_symlinks=False):
                        os.chmod(inner.path, 0o700)
                        moved += 1
                        os.rename(inner.path, f"{folder}/{mark}-{moved}")
                    else:
                        os.unlink(inner.path)
                os.rmdir(entry.path)
            except OSError as error:
                failed.add(entry.name)
                first = first or error
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        return first or error
    return None


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
