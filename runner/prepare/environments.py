"""The virtual environments of --install: one for each content, in a cache folder, shared between runs.

    NAME.lock         locked by each run that uses the environment, exclusively by the one that makes it
    NAME.json         written last: names the folder of the environment, which is complete
    NAME-XXXXXXXX/    the environment

NAME is a digest of all that decides what the environment contains. Each attempt to make one has a folder of
its own, since a virtual environment cannot be moved, and the installer of a run that was killed may go on
writing for a moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import InstallFailed

#: Part of each digest: environments of another format are not used.
FORMAT = "1"
_NAME_DIGITS = 16


class Environment(NamedTuple):
    """A complete environment."""

    name: str
    folder: str
    facts: Mapping[str, Any]  #: source, requirements, python, installer, madeAt

    @property
    def python(self) -> str:
        """Its interpreter."""
        return os.path.join(self.folder, "bin", "python")


def cache_folder(environ: Mapping[str, str]) -> str:
    """Return the folder of all environments."""
    base = environ.get("XDG_CACHE_HOME") or ""
    if not os.path.isabs(base):  # the XDG specification has relative paths ignored
        base = os.path.expanduser("~/.cache")
    return os.path.join(base, "hkrunner", "envs")


def name_of(content: tuple[str, ...]) -> str:
    """Return the name of the environment that this content describes."""
    return hashlib.sha256(json.dumps([FORMAT, *content]).encode()).hexdigest()[:_NAME_DIGITS]


class EnvironmentCache:
    """The environments below one folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find(self, name: str) -> Environment | None:
        """Return the environment if it is complete and its interpreter is still there."""
        try:
            with open(self._path(name, ".json"), encoding="utf-8") as file:
                facts = json.load(file)
            found = Environment(name, os.path.join(self._folder, os.path.basename(facts["folder"])), facts)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if os.access(found.python, os.X_OK) else None

    def all(self) -> list[Environment]:
        """Return the complete environments, the latest used last."""
        found = [self.find(name.removesuffix(".json")) for name in self._names() if name.endswith(".json")]
        return sorted((one for one in found if one is not None), key=lambda one: self.last_used(one.name))

    def last_used(self, name: str) -> float:
        """Return when a run began to use it, in seconds since the epoch; 0 if this is unknown."""
        try:
            return os.stat(self._path(name, ".lock")).st_mtime
        except OSError:
            return 0.0

    def use(
        self,
        name: str,
        make: Callable[[str], Mapping[str, Any]],
        on_wait: Callable[[], None],
        stack: contextlib.ExitStack,
    ) -> Environment:
        """Return the environment, which no one removes until `stack` is closed. Raises InstallFailed.

        `make` makes it in the folder that it is given, if it is not there yet, and returns facts about it.
        `on_wait` is called before a wait for another run that makes the same environment.
        """
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            while True:
                with contextlib.ExitStack() as lock:
                    lock.enter_context(self._lock(name, fcntl.LOCK_SH, on_wait))
                    found = self.find(name)
                    if found is not None:
                        with contextlib.suppress(OSError):  # in a cache that can only be read
                            os.utime(self._path(name, ".lock"))
                        stack.push(lock.pop_all())
                        return found
                with self._lock(name, fcntl.LOCK_EX, on_wait):
                    if self.find(name) is None:
                        self._make(name, make)
        except OSError as error:
            raise InstallFailed(
                f"--install: no environment can be made in {self._folder}: {error.strerror or error}"
            ) from None

    def remove(self, name: str) -> bool:
        """Remove the environment, whether complete or not; return False if a run is using it."""
        try:
            with self._lock(name, fcntl.LOCK_EX | fcntl.LOCK_NB, lambda: None):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path(name, ".json"))  # first: without it, no run uses what is left
                self._remove_folders(name)
                os.unlink(self._path(name, ".lock"))
        except BlockingIOError:
            return False
        return True

    def names(self) -> list[str]:
        """Return the names of all environments, also of those that were not completed."""
        found = (re.match(rf"[0-9a-f]{{{_NAME_DIGITS}}}(?=[.-])", name) for name in self._names())
        return list(dict.fromkeys(one[0] for one in found if one))

    def _make(self, name: str, make: Callable[[str], Mapping[str, Any]]) -> None:
        self._remove_folders(name)  # of runs that were killed
        folder = self._path(name, f"-{os.urandom(4).hex()}")
        complete, part = self._path(name, ".json"), f"{folder}.part"
        try:
            facts = {**make(folder), "folder": os.path.basename(folder), "madeAt": time.time()}
            with open(part, "w", encoding="utf-8") as file:
                json.dump(facts, file)
            os.replace(part, complete)
        except BaseException:
            self._remove_folders(name)
            os.unlink(self._path(name, ".lock"))
            raise

    def _remove_folders(self, name: str) -> None:
        for one in self._names():
            if one.startswith(f"{name}-"):
                path = os.path.join(self._folder, one)
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []

    def _path(self, name: str, suffix: str) -> str:
        return os.path.join(self._folder, name + suffix)

    @staticmethod
    def _open_lock(path: str, kind: int) -> int:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # a cache that can only be read, as in an image, has complete environments, too
            if kind & fcntl.LOCK_SH and os.path.exists(path):
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            raise

    @contextlib.contextmanager
    def _lock(self, name: str, kind: int, on_wait: Callable[[], None]) -> Iterator[None]:
        path = self._path(name, ".lock")
        fd = -1
        try:
            while True:
                fd = self._open_lock(path, kind)
                try:
                    fcntl.flock(fd, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    if kind & fcntl.LOCK_NB:
                        raise
                    on_wait()
                    fcntl.flock(fd, kind)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), os.stat(path)):
                        break
                os.close(fd)  # remove() has unlinked the file meanwhile
                fd = -1
            yield
        finally:
            if fd >= 0:
                os.close(fd)
