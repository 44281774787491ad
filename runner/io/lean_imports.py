"""Imports libraries without what they import and do not use here."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

#: Modules that hashlib needs where OpenSSL is missing; an interpreter may be built without them.
_HASHES = ("_md5", "_sha1", "_blake2", "_sha3", "_sha2" if sys.version_info >= (3, 12) else "_sha256")


def import_late(name: str) -> None:
    """Have this module loaded when an attribute of it is first read, whoever imports it before that.

    Without effect if it was imported already. importlib.util.LazyLoader does not do this: the next `import`
    of the module, which reads its __spec__, loads it.
    """
    if name in sys.modules:
        return
    stand_in = ModuleType(name)

    def load(attribute: str) -> Any:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    stand_in.__dict__["__getattr__"] = load
    sys.modules[name] = stand_in
    package, _, last = name.rpartition(".")
    if package:  # as an import of the module does
        setattr(importlib.import_module(package), last, stand_in)


@contextlib.contextmanager
def without_openssl() -> Iterator[None]:
    """Import something as if the interpreter had been built without OpenSSL.

    websocket-client supports that. ws:// needs only SHA-1, which hashlib then takes from the interpreter
    itself. That saves 5 MB of memory for good, and 6 ms until we are connected.
    """
    withheld = [name for name in ("ssl", "_hashlib") if name not in sys.modules]
    if not all(map(importlib.util.find_spec, _HASHES)):
        withheld = []  # hashlib logs an error for each hash that is missing
    sys.modules.update(dict.fromkeys(withheld))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in withheld:
            del sys.modules[name]
