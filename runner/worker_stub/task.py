"""A task of the local worker, and its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ...sandbox.codec import codec


class LocalTask(NamedTuple):
    """A task for a client. input: JSON text of a list; more: further keys of its initialize message."""

    task: str
    job: str
    node: str
    algorithm: str
    pipeline: str
    input: bytes
    more: Mapping[str, Any] = MappingProxyType({})
    depth: int = 0  #: the number of tasks in the chain that started it

    def message(self, input: Any = None) -> dict[str, Any]:
        """Return its initialize message, with the keys that HKube's worker sends under storage v1."""
        data: dict[str, Any] = {
            "useCache": False,
            "flatInput": None,
            "jobId": self.job,
            "taskId": self.task,
            "input": input,
            "storage": {},
            "nodeName": self.node,
            "algorithmName": self.algorithm,
            "pipelineName": self.pipeline,
            "kind": "batch",
            "parents": [],
            "childs": [],
            "priority": 3,
            "status": "creating",
            "info": {"savePaths": [], "lastRunResult": None, "rootJobId": None, "extraData": None},
            "spanId": {},
            **self.more,
        }
        return {"command": "initialize", "data": data}

    def initialize(self, encoding: str) -> bytes:
        """Return its initialize message, encoded.

        Raises ResultInvalid for an input that this encoding cannot carry.
        """
        if encoding != "json":
            message = self.message(codec.decode("json", self.input))
            # Messages of the worker have no size limit.
            return codec.encode(encoding, message, name="input", most=None)
        # Insert the input's text as it is: decoding it would round numbers.
        whole = codec.encode("json", self.message(), name="input")
        begin, mark, end = whole.partition(b'"input":null')
        return begin + mark[:-4] + self.input + end


class Answer(NamedTuple):
    """The answer to a task. command: done, errorMessage or stopped; message: the whole message, decoded."""

    task: LocalTask
    command: str
    message: dict[str, Any]
    spans: Sequence[dict[str, Any]] = ()

    @property
    def error(self) -> str:
        """The text of the error that HKube's worker records."""
        error = self.message.get("error")
        text = error.get("message") if isinstance(error, dict) else None
        return text if isinstance(text, str) and text else "unknown error"
