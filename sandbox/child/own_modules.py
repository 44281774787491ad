"""Our own modules stay where they are, and keep what they import, whatever the user's code does.

Some are imported only when they are needed, by names relative to the others, and may be the first since then
to import a module of the standard library. That the user's code has emptied sys.modules, or has a file of
that name, is to make no difference. Python 3.8 and newer.
"""

from __future__ import annotations

import builtins
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import Any, Dict, Optional


class OwnModules:
    """Finds the package of our modules where it is no longer known, and puts all of them back."""

    def __init__(self, package: str) -> None:
        """Remember the modules that are there now."""
        self._package = package
        self._begin = begin = package + "."
        self._modules: Dict[str, ModuleType] = {
            name: module for name, module in sys.modules.items() if name == package or name.startswith(begin)
        }
        self._library = {name: one for name, one in sys.modules.items() if name not in self._modules}
        stand_in = self._modules.get(f"{begin}sandbox.typing_stand_in")
        if stand_in is not None:
            self._library["typing"] = stand_in
        self._builtins = {**vars(builtins), "__import__": self._import}

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

    def share_library(self) -> None:
        """Modules of ours that are imported from here on find those that are there now before all others."""
        for module in self._modules.values():
            for folder in getattr(module, "__path__", ()):
                finder = FileFinder(folder, (self._loader, SOURCE_SUFFIXES))  # type: ignore[arg-type]
                sys.path_importer_cache[folder] = finder

    def _loader(self, name: str, path: str) -> SourceFileLoader:
        if not name.startswith(self._begin):  # the user's code imports hkrunner from the same folder
            return SourceFileLoader(name, path)
        return _Loader(name, path, self._builtins)

    def _import(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        """Do what an import statement does, in a module of ours."""
        if level == 0 and name in self._library:
            return self._library[name if fromlist else name.partition(".")[0]]
        return __import__(name, globals, locals, fromlist, level)


class _Loader(SourceFileLoader):
    """Runs a module with other builtins."""

    def __init__(self, name: str, path: str, names: Dict[str, Any]) -> None:
        super().__init__(name, path)
        self._names = names

    def exec_module(self, module: ModuleType) -> None:
        """Run its code."""
        module.__dict__["__builtins__"] = self._names
        super().exec_module(module)


def keep_own_modules() -> None:
    """Have imports of and in our modules succeed whatever the user's code does to sys.modules."""
    modules = OwnModules(__name__.partition(".")[0])
    modules.share_library()
    sys.meta_path.append(modules)
