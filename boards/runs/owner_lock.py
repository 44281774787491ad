"""Whether the process that owns a record still runs, where its pid does not tell: in another pid namespace.

Containers on one machine that have one host name (`--network host`) may share a state folder. So a process
that records tasks, and a board, hold a lock on <root>/owners/<process>.lock, which the kernel releases when
they end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from .files import NoLocksError, ProcessIdentity, lock_file, own_identity, remove_quietly, safe_part

#: Another process may lock the file for a moment, to see whether it is locked.
_TRIES = 20
_PAUSE_S = 0.001

#: By state folder: the descriptor that holds the lock (None: there is none), and by how many it is held.
_held: dict[str, tuple[int | None, int]] = {}


def hold(root: str) -> None:
    """Hold the lock of this process in the state folder until release(). Never raises."""
    fd, count = _held.get(root, (None, 0))
    if not count:
        fd = _take(root)
    _held[root] = (fd, count + 1)


def take_again(root: str) -> None:
    """Make the lock anew if it is held and its file is gone: the state folder was removed. Never raises."""
    fd, count = _held.get(root, (None, 0))
    if count and not os.path.exists(_path(root, own_identity())):
        if fd is not None:
            os.close(fd)
        _held[root] = (_take(root), count)


def release(root: str) -> None:
    """Release the lock once for each hold()."""
    fd, count = _held.pop(root, (None, 0))
    if count > 1:
        _held[root] = (fd, count - 1)
    elif count:
        remove_quietly(_path(root, own_identity()))
        if fd is not None:
            os.close(fd)


def _take(root: str) -> int | None:
    """Return a descriptor that holds this process's lock, and remove the files of processes that have ended.

    Returns None where the file cannot be made, and so no record either, and where the file system has no
    locks: there the file itself says that the process lives.
    """
    fd = None
    folder = f"{root}/owners"
    with contextlib.suppress(OSError, NoLocksError):
        os.makedirs(folder, exist_ok=True)
        for _ in range(_TRIES):
            fd = lock_file(_path(root, own_identity()))
            if fd is not None:
                break
            time.sleep(_PAUSE_S)
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError, NoLocksError):  # it may be another user's
                _remove_if_free(f"{folder}/{name}")
    return fd


def may_live(owner: ProcessIdentity, root: str) -> bool:
    """Whether the owner of a record in this state folder may still run; False: it is known to be gone."""
    return owner.is_alive() or (owner.is_of_other_namespace and _is_locked(_path(root, owner)))


def _path(root: str, owner: ProcessIdentity) -> str:
    return f"{root}/owners/{safe_part(f'{owner.namespace}-{owner.pid}-{owner.started}.lock')}"


def _is_locked(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # it was removed by its owner, or by another process once its owner had ended
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # its owner lives, or the file system has no locks
        return True
    finally:
        os.close(fd)
    return False


def _remove_if_free(path: str) -> None:
    fd = lock_file(path)
    if fd is not None:
        remove_quietly(path)
        os.close(fd)
