"""Finds the values behind the links of HKube in a task's input: in memory, at a peer, or in the storage.

A link is `{storageInfo: {path}, path, discovery, taskId, metadata}`; a list of links stands for a list of
values. A link in a list may be a group `{discovery, tasks, path}` instead: one process of HKube holds the
results of several tasks. `path` names a part of the value, also of one that was found in memory. Whatever a
peer cannot give is read from the storage.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ...sandbox.codec.codec import Buffer
from .encoded_value import EncodedValue, check, in_encoding, part, value_of
from .errors import StorageError
from .file_region import SMALL, FileRegion
from .stored_object import ObjectStore
from .value_cache import ValueCache

Progress = Callable[[], None]


class Peers(Protocol):
    """Asks other algorithms of HKube for results that they hold in memory."""

    def ask(
        self, discovery: Mapping[str, Any], tasks: list[str], progress: Progress
    ) -> list[EncodedValue | None]:
        """Return the values of these tasks, in order; None for each that the peer cannot give."""


class LargeObject:
    """An object that is still in its file, and goes into the task's input whole."""

    def __init__(self, name: str, cache_id: str, value: EncodedValue, close: Callable[[], None]) -> None:
        self.name = name  #: its place, for messages
        self.cache_id = cache_id
        self.value = value  #: its data is a FileRegion, which check() cannot read yet
        self.close = close


def open_max() -> int:
    """Return how many large objects may be open at a time: further ones are read into memory."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if allowed == resource.RLIM_INFINITY else allowed // 2


class InputLinks:
    """The links of one task."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        cache: ValueCache,
        peers: Peers | None,
        encoding: str,
        task_encoding: str,
        folder: str,
        progress: Progress,
        decodes: bool = False,
    ) -> None:
        """`encoding`: of objects without a header. task_encoding: in which the task gets its values.

        `folder`: where the job's results are in the storage. `decodes`: check each object of it wholly.
        """
        self._store = store
        self._cache = cache
        self._peers = peers
        self._encoding = encoding
        self._task_encoding = task_encoding
        self._folder = folder
        self._progress = progress
        self._decodes = decodes
        self._open_max = open_max()
        self.large: list[LargeObject] = []  #: objects that are copied later, and closed by the caller

    def value(self, link: Any) -> Any:
        """Return the value of a link: an EncodedValue, None, or a list of these. Raises StorageError."""
        if isinstance(link, list):
            return [one for member in link for one in self._members(member)]
        return self._single(_as_link(link))

    def _single(self, link: Mapping[str, Any]) -> EncodedValue | None:
        path, discovery, task = _object_path(link), link.get("discovery"), link.get("taskId")
        cache_id = str(task) if discovery and task else path
        value = self._cache.get(cache_id) if cache_id else None
        if value is None and discovery and task:
            (value,) = self._from_peer(discovery, [str(task)])
        if value is None:
            if not path and not task:
                raise StorageError("a link names neither an object nor a task")
            if not path:
                raise StorageError(f"no peer has the result of task {task}, and its link names no object")
            return self._stored(path, cache_id or path, link.get("path"))
        return self._part(value, link.get("path"))

    def _members(self, member: Any) -> list[EncodedValue | None]:
        link = _as_link(member)
        if _object_path(link):
            return [self._single(link)]
        told = link.get("tasks")
        tasks = [str(task) for task in told] if isinstance(told, list) else []
        if not tasks:
            raise StorageError("a link names neither an object nor tasks")
        known = {task: value for task in tasks if (value := self._cache.get(task)) is not None}
        missing = [task for task in tasks if task not in known]
        if missing and link.get("discovery"):
            for task, value in zip(missing, self._from_peer(link["discovery"], missing), strict=True):
                if value is not None:
                    known[task] = value
        path = link.get("path")
        return [
            self._part(known[task], path) if task in known else self._stored(self._path_of(task), task, path)
            for task in tasks
        ]

    def _path_of(self, task: str) -> str:
        return f"{self._folder}/{task}"

    def _from_peer(self, discovery: Any, tasks: list[str]) -> list[EncodedValue | None]:
        if self._peers is None or not isinstance(discovery, dict):
            return [None] * len(tasks)
        found = self._peers.ask(discovery, tasks, self._progress)
        for task, value in zip(tasks, found, strict=True):
            if value is not None:
                self._cache.put(task, value)
        return found

    def _stored(self, path: str, cache_id: str, part_path: Any) -> EncodedValue | None:
        """Return the value, or a part of it, of an object in the storage."""
        one = self._store.open(path, self._progress)
        is_open = True
        try:
            value = value_of(one.header, one.data, self._encoding, one.name)
            is_large = isinstance(one.data, FileRegion) and len(one.data) > SMALL
            # JSON has no bytes: they become text there.
            is_same = self._task_encoding != "json" if value.is_raw else value.encoding == self._task_encoding
            is_later = is_large and not part_path and is_same and not self._decodes
            if is_later and len(self.large) < self._open_max:
                if value.encoding == "bson":
                    check(value, one.name)
                self.large.append(LargeObject(one.name, cache_id, value, one.close))
                is_open = False
                return value
            if isinstance(one.data, FileRegion):
                value = EncodedValue(value.encoding, self._read(one.data, one.name))
            check(value, one.name, decodes=self._decodes)
        finally:
            if is_open:
                one.close()
        self._cache.put(cache_id, value)
        return self._part(value, part_path)

    def read_large(self, value: EncodedValue) -> EncodedValue:
        """Return a value of `large` with its bytes; its file is closed. Raises StorageError."""
        one = next(one for one in self.large if one.value is value)
        assert isinstance(value.data, FileRegion), "the data of a large object is in its file"
        self.large.remove(one)
        try:
            whole = value._replace(data=self._read(value.data, one.name))
        finally:
            one.close()
        check(whole, one.name)
        return whole

    def _read(self, data: FileRegion, name: str) -> Buffer:
        try:
            return data.read(self._progress)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StorageError(f"no object can be read at {name}: {reason}") from None

    def _part(self, value: EncodedValue, path: Any) -> EncodedValue | None:
        found = part(value, str(path)) if path else value
        return None if found is None else in_encoding(found, self._task_encoding, "an input")


def _as_link(link: Any) -> Mapping[str, Any]:
    if not isinstance(link, dict):
        raise StorageError(f"a link is {type(link).__name__} instead of an object")
    return link


def _object_path(link: Mapping[str, Any]) -> str:
    info = link.get("storageInfo")
    path = info.get("path") if isinstance(info, dict) else None
    return path if isinstance(path, str) else ""
