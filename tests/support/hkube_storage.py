"""Objects and links of HKube's storage, as the places of HKube write them; uses nothing of hkrunner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bson
import msgspec

CLUSTER = "local"
JOB = "job1"
BSON, MSGPACK = 1, 3


def header(encoding: int = MSGPACK, *, raw: bool = False) -> bytes:
    """Return the 8 bytes that HKube's wrappers put before a value."""
    return bytes((1, 8, 1 if raw else 2, encoding, 0, 0)) + b"HK"


class Storage:
    """A folder as HKube's storage (DEFAULT_STORAGE=fs)."""

    def __init__(self, folder: Path, *, timeout_s: float = 20) -> None:
        self.folder = folder
        #: Variables for a wrapper that is to use it.
        self.variables: dict[str, str | None] = {
            "STORAGE_PROTOCOL": "v3",
            "BASE_FS_ADAPTER_DIRECTORY": str(folder),
            "HKRUNNER_STORAGE_TIMEOUT": str(timeout_s),
            "DISCOVERY_ENABLE": "false",
        }

    def file(self, task: str) -> Path:
        return self.folder / f"{CLUSTER}-hkube" / JOB / task

    def write(self, task: str, data: bytes) -> dict[str, Any]:
        """Write the bytes of an object; return the link to it."""
        file = self.file(task)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return self.link(task)

    def put(self, task: str, value: Any, *, with_header: bool = True) -> dict[str, Any]:
        """Write a value in msgpack; return the link to it."""
        return self.write(task, (header() if with_header else b"") + msgspec.msgpack.encode(value))

    def put_bson(self, task: str, value: Any) -> dict[str, Any]:
        return self.write(task, header(BSON) + bson.encode({"data": value}))

    def link(self, task: str, path: str = "") -> dict[str, Any]:
        """Return the link to the object of a task."""
        return {"storageInfo": {"path": f"{CLUSTER}-hkube/{JOB}/{task}"}, "metadata": {}, "path": path}

    def read(self, task: str) -> Any:
        """Return the value of a result in msgpack, which must have a header."""
        data = self.file(task).read_bytes()
        if data[:8] == header(raw=True):
            return data[8:]
        assert data[:8] == header(), data[:8].hex(" ")
        return msgspec.msgpack.decode(data[8:])

    def leftovers(self) -> list[str]:
        """Return the files that are no objects."""
        return [one.name for one in self.folder.rglob(".*")]
