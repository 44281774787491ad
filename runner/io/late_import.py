"""Modules that a library imports and hardly ever uses are loaded when they are used."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


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
