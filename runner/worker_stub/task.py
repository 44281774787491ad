"""A task of the local worker, and how it was answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...sandbox.codec import codec


@dataclass(frozen=True)
class LocalTask:
    """A task to hand out; `input` is JSON text of a list, `more` further keys of its initialize."""

    task: str
    job: str
    node: str
    algorithm: str
    pipeline: str
    input: bytes
    more: dict[str, Any] = field(default_factory=dict)

    def initialize(self, encoding: str) -> bytes:
        """Return its initialize message: the keys a real worker sends under storage v1.

        Raises ResultInvalid for an input that this encoding cannot carry.
        """
        data: dict[str, Any] = {
            "useCache": False,
            "flatInput": None,
            "jobId": self.job,
            "taskId": self.task,
            "input": None,
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
        message = {"command": "initialize", "data": data}
        if encoding != "json":
            data["input"] = codec.decode("json", self.input)
            # What the worker sends has no limit (PROTOCOL 1.4).
            return codec.encode(encoding, message, name="input", most=None)
        # The input travels as it was written: nothing is decoded, nothing rounded.
        whole = codec.encode("json", message, name="input")
        begin, mark, end = whole.partition(b'"input":null')
        return begin + mark[:-4] + self.input + end


@dataclass(frozen=True)
class Answer:
    """How a task was answered: `command` is done, errorMessage or stopped; `message` the decoded whole.

    `spans`: those of the task, see spans.py.
    """

    task: LocalTask
    command: str
    message: dict[str, Any]
    spans: list[dict[str, Any]] = field(default_factory=list)

    @property
    def error(self) -> str:
        """The text that HKube's worker keeps of an error."""
        error = self.message.get("error")
        text = error.get("message") if isinstance(error, dict) else None
        return text if isinstance(text, str) and text else "unknown error"
