"""Completes a task's input, stores its result, and passes on its calls of the code API.

Three encodings meet here: that of the worker's messages, that of the messages to and from the algorithm's
process, and that of the storage.
"""

from __future__ import annotations

import contextlib
import secrets
import string
from collections.abc import Mapping
from typing import Any, NamedTuple

from ...sandbox.codec import codec, unreadable
from ...sandbox.codec.codec import Buffer
from ...sandbox.shared.storage_messages import (
    INLINE_MAX,
    CarryCall,
    CheckInput,
    FetchInput,
    ForTask,
    ForWorker,
    InputFetched,
    StoreResult,
)
from .begun_task import BegunTask, begun_task
from .encoded_value import (
    EncodedValue,
    bson_length,
    bson_pieces,
    check,
    decode,
    describe,
    encode,
    in_encoding,
    part,
    result_of,
)
from .errors import ObjectInvalid, StorageError
from .file_region import Bytes, FileRegion, copied
from .input_links import InputLinks, LargeObject, Peers
from .job import Job
from .message_file import MessageFile
from .requests import Datagram
from .splice import as_filled, fill, pieces_of
from .stored_object import ObjectStore
from .value_cache import ValueCache

#: How HKube marks a text that stands for a value in the storage.
_LINK = "$$"


class Encodings(NamedTuple):
    """The encodings that meet here."""

    worker: str
    task: str
    storage: str


class Stores(NamedTuple):
    """Where values are looked for and kept."""

    objects: ObjectStore
    inputs: ValueCache
    results: ValueCache  #: what peers can ask for
    peers: Peers | None
    discovery: Mapping[str, Any] | None  #: where peers ask for it; None: nowhere


class Operations:
    """Works for one task at a time."""

    def __init__(
        self, encodings: Encodings, stores: Stores, cluster: str, *, checks_later: bool = False
    ) -> None:
        """`checks_later`: an object may be checked when the task's process could not read it (CheckInput)."""
        self._encodings = encodings
        self._stores = stores
        self._cluster = cluster
        self._checks_later = checks_later
        self._storage: Mapping[str, Any] = {}  #: the links of the task's input
        self._has_task, self._task = False, BegunTask({}, [])
        self._to_be_served: tuple[str, EncodedValue, list[Buffer]] | None = None
        self._to_be_cached: list[tuple[str, str, bytes, Buffer]] = []
        self._includes_result: dict[str, bool] = {}  #: for each call of the code API, by its id

    def perform(self, job: Job, memory: MessageFile) -> Datagram:
        """Do what the request asks for; return the answer. Raises StorageError."""
        if isinstance(job.request, FetchInput):
            return self._fetch(job, memory)
        if not self._has_task:
            raise StorageError("the process that accesses the storage was started again during this task")
        if isinstance(job.request, StoreResult):
            return Datagram(self._store(job))
        if isinstance(job.request, CheckInput):
            return Datagram(self._check_input(job))
        if isinstance(job.request, CarryCall):
            return self._call(job, memory)
        return self._answer(job, memory)

    # ---- a task's input

    def _fetch(self, job: Job, memory: MessageFile) -> Datagram:
        data = codec.data_of(_decoded(job, self._encodings.worker, "the worker's initialize"))
        task = begun_task(data)
        self.begin(task)
        with contextlib.ExitStack() as opened:
            links = self._links(job)
            storage = data.get("storage")
            self._storage = storage if isinstance(storage, dict) else {}
            filled = {**data, "storage": {}, "flatInput": None}  # as under v1
            value = filled.pop("input")
            if self._storage:
                try:
                    value = fill(value, lambda text: _filled(text, self._storage, links))
                finally:
                    for one in links.large:
                        opened.callback(one.close)
            filled["input"] = value  # the last one: see _check_large()
            whole = {"command": "initialize", "data": as_filled(filled)}
            wire, size, fd = self._for_task(whole, links.large, job, memory)
            return Datagram(InputFetched(wire, job.id, dict(task.names), task.save_paths, size), fd)

    def begin(self, task: BegunTask) -> None:
        """Work for this task from now on."""
        self._has_task, self._task = True, task
        self._includes_result.clear()

    def _links(self, job: Job, *, decodes: bool = False) -> InputLinks:
        stores = self._stores
        return InputLinks(
            store=stores.objects,
            cache=ValueCache(0) if decodes else stores.inputs,
            peers=None if decodes else stores.peers,
            encoding=self._encodings.storage,
            task_encoding=self._encodings.task,
            folder=self._folder(),
            progress=job.progress,
            decodes=decodes,
        )

    def _folder(self) -> str:
        return f"{self._cluster}-hkube/{self._task.job_id}"

    def _to_task(
        self, message: dict[str, Any], large: list[LargeObject], job: Job, memory: MessageFile
    ) -> Datagram:
        wire, size, fd = self._for_task(message, large, job, memory)
        return Datagram(ForTask(wire, job.id, size), fd)

    def _for_task(
        self, message: dict[str, Any], large: list[LargeObject], job: Job, memory: MessageFile
    ) -> tuple[bytes, int, int]:
        """Return `wire`, `size` and descriptor of an answer with this message for the algorithm's process."""
        pieces = pieces_of(self._encodings.task, message)
        size = sum(len(one) for one in pieces)
        if size <= INLINE_MAX:
            return b"".join(bytes(one) for one in pieces), 0, -1
        try:
            fd, size = memory.write(pieces, job.progress)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StorageError(f"the input cannot be put together: {reason}") from None
        self._check_large(pieces, large, memory.view(size), may_wait=isinstance(job.request, FetchInput))
        return b"", size, fd

    def _check_large(
        self, pieces: list[Bytes], large: list[LargeObject], written: Buffer, *, may_wait: bool
    ) -> None:
        """Check the objects that were copied; those that are worth it are put into the cache by finish().

        `may_wait`: see __init__(). A message of msgpack that ends with an object can be read only if that is
        exactly one value: nothing but the values says where a list or an object ends. To go through 500,000
        numbers takes as long as to copy them twice.
        """
        may_wait = may_wait and self._checks_later and self._encodings.task == "msgpack"
        waiting, at = list(large), 0
        for number, piece in enumerate(pieces, 1):
            if isinstance(piece, FileRegion):
                one = waiting.pop(0)
                data = memoryview(written)[at : at + len(piece)]
                # To read a file a second time costs what it costs to copy it.
                is_kept = self._stores.inputs.is_worth_a_copy(one.cache_id, len(data))
                is_later = may_wait and number == len(pieces) and not is_kept
                if not is_later and one.value.encoding != "bson":  # only what frames it was copied apart
                    check(one.value._replace(data=data), one.name)
                if is_kept:
                    kind = one.value.data[4:5] if one.value.encoding == "bson" else b""
                    self._to_be_cached.append((one.cache_id, one.value.encoding, bytes(kind), data))
            at += len(piece)

    def _check_input(self, job: Job) -> ForTask:
        """Say which object the task's process cannot read: none was decoded before it went there."""
        links = self._links(job, decodes=True)
        for link in self._storage.values():
            try:
                links.value(link)
            except ObjectInvalid as error:
                return ForTask(str(error).encode(errors="backslashreplace"), job.id)
            except StorageError:
                continue  # it was there before
        return ForTask(b"", job.id)

    def finish(self) -> None:
        """Fill the caches: called after the answer of perform() was sent, so that the task need not wait."""
        if self._to_be_served is not None:
            (task, value, body), self._to_be_served = self._to_be_served, None
            self._stores.results.put(task, value._replace(data=copied(body)))
        waiting, self._to_be_cached = self._to_be_cached, []
        for name, encoding, kind, data in waiting:
            pieces = bson_pieces(kind, data) if encoding == "bson" else [data]
            self._stores.inputs.put(name, EncodedValue(encoding, copied(pieces)))

    # ---- a task's result

    def _store(self, job: Job) -> ForWorker:
        data = job.data()
        value, body = self._result(data)
        # A write may last until this task is over and the next one has begun.
        task, metadata = self._task, self._metadata(value, body)
        path = f"{self._folder()}/{task.task_id}"
        size = sum(len(one) for one in body)
        header = value.header(self._encodings.storage)
        is_served = bool(task.save_paths) and self._stores.results.fits(size)
        self._stores.objects.write(path, header, body, job.progress)
        job.progress()  # raises Abandoned when the task is over
        told: dict[str, Any] = {"storageInfo": {"path": path, "size": size}, "metadata": metadata}
        if is_served and self._stores.discovery is not None:
            # Peers can ask for it a moment after they know of it; until then they read it from the storage.
            self._to_be_served = (task.task_id, value, body)
            told.update(discovery=self._stores.discovery, taskId=task.task_id)
        message = {"command": "storing", "data": told}
        wire = codec.encode(self._encodings.worker, message, name="message", most=None)
        return ForWorker(wire, job.id)

    def _result(self, wire: Buffer) -> tuple[EncodedValue, list[Buffer]]:
        """Return the result, and its bytes as they are stored."""
        encodings = self._encodings
        value, body = result_of(encodings.task, wire)
        if not value.is_raw and encodings.task != encodings.storage:
            value = in_encoding(self._whole(value, body), encodings.storage, "the result")
            return value, [value.data]
        return value, [bson_length(body), body] if value.encoding == "bson" else [body]

    def _whole(self, value: EncodedValue, body: Buffer) -> EncodedValue:
        return value._replace(data=bson_length(body) + bytes(body)) if value.encoding == "bson" else value

    def _metadata(self, value: EncodedValue, body: list[Buffer]) -> dict[str, Any]:
        """Return kind and size of each part of the result that other nodes ask for, where it exists."""
        found: dict[str, Any] = {}
        task = self._task
        if not task.save_paths:
            return found
        if value.encoding == "bson" and len(body) > 1:
            value = value._replace(data=b"".join(body))
        for path in task.save_paths:
            node, _, inner = path.partition(".")
            if node != task.node:
                continue
            one = part(value, inner) if inner else value
            if one is None:
                continue
            kind, size = describe(one)
            if kind != "NoneType":  # HKube's wrapper leaves it out as well
                found[path] = {"type": kind} if size is None else {"type": kind, "size": size}
        return found

    # ---- the code API

    def _call(self, job: Job, memory: MessageFile) -> Datagram:
        message = _decoded(job, self._encodings.task, "a call")
        command, data = str(message.get("command")), message.get("data")
        try:
            if command == "startAlgorithmExecution" and isinstance(data, dict) and data.get("execId"):
                message = {"command": command, "data": self._stored_call(data, job)}
            elif command in ("startRawSubPipeline", "startStoredSubPipeline") and isinstance(data, dict):
                include = bool(data.get("includeResult"))
                self._includes_result[f"pipeline {data.get('subPipelineId')}"] = include
            wire = codec.encode(self._encodings.worker, message, name="input")
        except (StorageError, codec.ResultInvalid, codec.ResultTooLarge) as error:
            if not isinstance(data, dict) or not data.keys() & {"execId", "subPipelineId"}:
                raise StorageError(str(error)) from None
            return self._to_task(_failed(message, error), [], job, memory)
        if len(wire) <= INLINE_MAX:
            return Datagram(ForWorker(wire, job.id))
        fd, size = memory.write([wire], job.progress)
        return Datagram(ForWorker(b"", job.id, size), fd)

    def _stored_call(self, data: dict[str, Any], job: Job) -> dict[str, Any]:
        """Return the data of a call whose arguments are in the storage."""
        arguments = data.get("input")
        if not isinstance(arguments, list):
            kind = type(arguments).__name__
            raise StorageError(f"data.input should be array: a list of arguments, not {kind}")
        self._includes_result[f"algorithm {data['execId']}"] = bool(data.get("includeResult"))
        storage: dict[str, Any] = {}
        for number, argument in enumerate(arguments):
            value = encode(self._encodings.storage, argument, f"input[{number}]")
            name = _new_id()
            path = f"{self._folder()}/{name}"
            header = value.header(self._encodings.storage)
            self._stores.objects.write(path, header, [value.data], job.progress)
            storage[name] = {"storageInfo": {"path": path, "size": len(value.data)}, "metadata": {}}
        return {
            **{name: value for name, value in data.items() if name != "input"},
            "storageInput": [f"{_LINK}{name}" for name in storage],
            "storage": storage,
        }

    def _answer(self, job: Job, memory: MessageFile) -> Datagram:
        message = _decoded(job, self._encodings.worker, "the worker's answer to a call")
        data = message.get("data")
        links = self._links(job)
        try:
            if isinstance(data, dict) and isinstance(data.get("response"), (dict, list)):
                response = self._response(str(message["command"]), data, links)
                message = {**message, "data": as_filled({**data, "response": response})}
            return self._to_task(message, links.large, job, memory)
        except (StorageError, ValueError) as error:
            return self._to_task(_failed(message, error), [], job, memory)
        finally:
            for one in links.large:
                one.close()

    def _response(self, command: str, data: dict[str, Any], links: InputLinks) -> Any:
        """Return the answer of a call, read from the storage where the caller wants it."""
        response = data["response"]
        if command == "algorithmExecutionDone":
            if self._wants_result(f"algorithm {data.get('execId')}") and _is_link(response):
                return links.value(response)
        elif command == "subPipelineDone":
            is_wanted = self._wants_result(f"pipeline {data.get('subPipelineId')}")
            if is_wanted and _is_link(response):
                results = links.value(response)
                return self._with_large_results(results, links)
        return response

    def _wants_result(self, call: str) -> bool:
        if self._task.is_resumed and call not in self._includes_result:
            raise StorageError("the process that accesses the storage was started again during this call")
        return self._includes_result.pop(call, False)

    def _with_large_results(self, results: Any, links: InputLinks) -> Any:
        """Return the results of a sub-pipeline with those in place that are objects of their own."""
        if not isinstance(results, EncodedValue):
            return results
        if isinstance(results.data, FileRegion):
            results = links.read_large(results)
        items = decode(results)
        if not isinstance(items, list):
            return results
        changed: list[Any] = []
        for item in items:
            info = item.get("info") if isinstance(item, dict) else None
            if isinstance(info, dict) and info.get("isBigData") and info.get("path"):
                item = as_filled({**item, "result": links.value({"storageInfo": {"path": info["path"]}})})
            changed.append(item)
        return as_filled(changed)


def _decoded(job: Job, encoding: str, name: str) -> Any:
    try:
        return codec.decode(encoding, job.data())
    except ValueError as error:
        raise StorageError(f"{name} {unreadable.why(error, f'is no {encoding}')}") from None


def _filled(text: str, storage: Mapping[str, Any], links: InputLinks) -> Any:
    if not text.startswith(_LINK):
        return text
    name = text[len(_LINK) :]
    if name not in storage:
        raise StorageError(f"the input has a link {text!r}, and the message does not say where it leads")
    return as_filled(links.value(storage[name]))


def _is_link(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("storageInfo"), dict)


def _failed(message: Mapping[str, Any], error: Exception) -> dict[str, Any]:
    """Return the answer that a call, or its other answer, has failed."""
    data = message["data"]
    if "execId" in data:
        return {
            "command": "algorithmExecutionError",
            "data": {"execId": data["execId"], "error": str(error)},
        }
    identifier = data.get("subPipelineId")
    return {"command": "subPipelineError", "data": {"subPipelineId": identifier, "error": str(error)}}


def _new_id() -> str:
    """Return an id of the length that HKube's have."""
    letters = string.ascii_lowercase + string.digits
    return "".join(secrets.choice(letters) for _ in range(8))
