"""Our own modules stay where they are though the user's code has emptied sys.modules.

Some are imported only when they are needed, by names relative to the others. Python 3.8 and newer.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Dict, Optional


class OwnModules:
    """Finds the package of our modules where it is no longer known, and puts all of them back."""

    def __init__(self, package: str) -> None:
        """Remember the modules of the package that are there now."""
        self._package = package
        begin = package + "."
        self._modules: Dict[str, ModuleType] = {
            name: module for name, module in sys.modules.items() if name == package or name.startswith(begin)
        }

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[ModuleSpec]:
        """Return how to import the package again; None for any other module."""
        if name != self._package:
            return None
        sys.modules.update(self._modules)
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the package as it was."""
        return self._modules[self._package]

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: its code has run."""


def keep_own_modules() -> None:
    """Have imports of our modules succeed whatever the user's code does to sys.modules."""
    sys.meta_path.append(OwnModules(__name__.partition(".")[0]))
