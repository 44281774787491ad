"""Whether the process that owns a record still runs, where its pid does not tell: in another pid namespace.

Containers on one machine that have one host name (`--network host`) may share a state folder. So a process
that records tasks holds a lock on <root>/owners/<process>.lock, which the kernel releases when it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from .files import NoLocksError, ProcessIdentity, lock_file, own_identity, remove_quietly, safe_part

#: Another process may have the file open for a moment, to see whether it is locked.
_TRIES = 5

#: By state folder: the descriptor that holds the lock (None: there is none), and by how many it is held.
_held: dict[str, tuple[int | None, int]] = {}


def hold(root: str) -> None:
    """Hold the lock of this process in the state folder until release(). Never raises."""
    fd, count = _held.get(root, (None, 0))
    if not count:
        # Where it cannot be made, nor can a record be, or the file system has no locks.
        with contextlib.suppress(OSError, NoLocksError):
            folder = f"{root}/owners"
            os.makedirs(folder, exist_ok=True)
            for name in os.listdir(folder):
                _remove_if_free(f"{folder}/{name}")
            for _ in range(_TRIES):
                fd = lock_file(_path(root, own_identity()))
                if fd is not None:
                    break
    _held[root] = (fd, count + 1)


def release(root: str) -> None:
    """Release the lock once for each hold()."""
    fd, count = _held.pop(root, (None, 0))
    if count > 1:
        _held[root] = (fd, count - 1)
    elif fd is not None:
        remove_quietly(_path(root, own_identity()))
        os.close(fd)


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
