"""The local worker's part of storage v3: inputs go into HKube's storage, results are read from it.

As in HKube, the worker sends links, and the client reads and writes the values. Only a folder can be the
storage. A value is read and written at once, in the loop: the folder is on this machine.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from ...sandbox.codec import codec
from ..settings.storage_settings import StorageSettings
from ..storage.encoded_value import EncodedValue, decode, encode
from ..storage.errors import StorageError
from ..storage.file_region import FileRegion
from ..storage.folder_store import FolderStore
from ..storage.input_links import InputLinks
from ..storage.value_cache import ValueCache
from .task import Answer, LocalTask

_LINK = "$$"


class StoredValues:
    """The values of one client's tasks in the storage."""

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self._store = FolderStore(settings.folder)
        self._storing: Mapping[str, Any] | None = None  #: what the client has said of its result

    # ---- tasks

    def initialize(self, task: LocalTask) -> dict[str, Any]:
        """Return the task's initialize message; its arguments are links. Raises StorageError.

        The arguments are one object without a header, as HKube's api-server writes the input of a pipeline.
        """
        self._storing = None
        arguments = codec.decode("json", task.input)
        path = f"{self._folder(task.job)}/{task.task}-input"
        self._write(path, arguments, with_header=False)
        names = [_new_name() for _ in arguments]
        message = task.message([f"{_LINK}{name}" for name in names])
        data = message["data"]
        data["storage"] = {
            name: {"storageInfo": {"path": path}, "metadata": {}, "path": str(number)}
            for number, name in enumerate(names)
        }
        data["flatInput"] = {str(number): f"{_LINK}{name}" for number, name in enumerate(names)}
        data["info"] = {**data["info"], "savePaths": [task.node]}
        return message

    def note_storing(self, data: Any) -> None:
        """Remember where the client has stored the result of its task."""
        self._storing = data if isinstance(data, dict) else None

    def with_result(self, answer: Answer) -> Answer:
        """Return the answer with the value that the client has stored; one without a result stays without.

        Raises StorageError.
        """
        storing, self._storing = self._storing, None
        if answer.command != "done" or storing is None:
            return answer
        message = {**answer.message, "data": self._read({"storageInfo": storing.get("storageInfo")})}
        return Answer(answer.task, answer.command, message, answer.spans)

    # ---- the code API

    def call(self, command: str, data: Any) -> Any:
        """Return the data of a call with the arguments that the client has stored. Raises StorageError."""
        if not isinstance(data, dict):
            return data
        if command in ("startRawSubPipeline", "startStoredSubPipeline"):
            return {**data, "includeResult": True}
        if command != "startAlgorithmExecution":
            return data
        data = {**data, "includeResult": True}
        storage, arguments = data.get("storage"), data.get("storageInput")
        if isinstance(arguments, list) and isinstance(storage, dict):
            data["input"] = [self._argument(one, storage) for one in arguments]
        return data

    def answer(self, task: LocalTask, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message to the client; the result of a call is in the storage. Raises StorageError."""
        data = message.get("data")
        if not isinstance(data, dict) or "response" not in data:
            return message
        if message["command"] == "algorithmExecutionDone":
            path = f"{self._folder(task.job)}/{_new_name()}"
            size = self._write(path, data["response"], with_header=True)
            response: dict[str, Any] = {"storageInfo": {"path": path, "size": size}, "metadata": {}}
        elif message["command"] == "subPipelineDone":
            path = f"{self._settings.cluster}-hkube-results/{task.job}-{_new_name()}/result.json"
            self._write(path, data["response"], with_header=False)
            response = {"storageInfo": {"path": path}}
        else:
            return message
        return {**message, "data": {**data, "response": response}}

    # ---- values

    def _folder(self, job: str) -> str:
        return f"{self._settings.cluster}-hkube/{job}"

    def _argument(self, text: Any, storage: Mapping[str, Any]) -> Any:
        if not isinstance(text, str) or not text.startswith(_LINK):
            return text
        return self._read(storage.get(text[len(_LINK) :]))

    def _read(self, link: Any) -> Any:
        if not isinstance(link, dict):
            raise StorageError(f"a link is {type(link).__name__} instead of an object")
        links = InputLinks(
            store=self._store,
            cache=ValueCache(0),
            peers=None,
            encoding=self._settings.encoding,
            task_encoding=self._settings.encoding,
            folder="",
            progress=lambda: None,
        )
        try:
            value = links.value(link)
            if value is None:
                return None
            if isinstance(value.data, FileRegion):
                value = EncodedValue(value.encoding, value.data.read(lambda: None))
            return decode(value)
        except (OSError, ValueError) as error:
            raise StorageError(f"an object cannot be read: {error}") from None
        finally:
            for one in links.large:
                one.close()

    def _write(self, path: str, value: Any, *, with_header: bool) -> int:
        """Write the value; return its size."""
        try:
            encoded = encode(self._settings.encoding, value)
        except codec.ResultInvalid as error:
            raise StorageError(str(error)) from None
        header = encoded.header(self._settings.encoding) if with_header else b""
        self._store.write(path, header, [encoded.data], lambda: None)
        return len(encoded.data)


def _new_name() -> str:
    """Return a name of the length that HKube's have."""
    return secrets.token_hex(4)
