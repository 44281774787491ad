"""The entry point of a board process and of the REST process: `python -E <this file> board|rest`.

Run by file and not with -m, which would put the working folder first on the module path, where a user's
folder named `tensorboard` would be imported. The folder of this file is taken off the path as well, since its
package `tensorboard` would hide the real one; our modules are found through the packages made here.

-E keeps the user's PYTHON* variables out: PYTHONWARNINGS=error alone ends TensorBoard. PYTHONPATH is looked
at last, since it may lead to the only TensorBoard there is, as on clusters whose module system sets it.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import Distribution, DistributionFinder

MODULES = {"board": "tensorboard.board_process", "rest": "rest_server"}


class PythonPathFinder:
    """Finds modules and packages in the folders of PYTHONPATH, for names that are found nowhere else.

    The end of sys.path would not do: there a module `google` of the user's would hide the installed namespace
    package of that name, which holds protobuf.
    """

    def __init__(self, folders: list[str]) -> None:
        self._folders = folders

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a top-level module, as the import system asks for it; None when there is none."""
        return PathFinder.find_spec(name, self._folders, target) if path is None else None

    def find_distributions(self, context: DistributionFinder.Context) -> Iterable[Distribution]:
        """Find installed packages, as importlib.metadata asks for them."""
        from importlib.metadata import DistributionFinder, MetadataPathFinder

        there = DistributionFinder.Context(name=context.name, path=self._folders)
        return MetadataPathFinder.find_distributions(there)

    def invalidate_caches(self) -> None:
        """Part of the protocol; PathFinder does it for all folders."""


def main() -> None:
    """Run main() of the module that the first argument names."""
    here = os.path.dirname(os.path.abspath(__file__))
    # Compared without links: Python has resolved those of the script's folder.
    sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != os.path.realpath(here)]
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.meta_path.append(PythonPathFinder([folder for folder in folders if os.path.isabs(folder)]))
    package = types.ModuleType("hkrunner")
    package.__path__ = [os.path.dirname(here)]
    sys.modules["hkrunner"] = package
    boards = types.ModuleType("hkrunner.boards")
    boards.__path__ = [here]
    sys.modules["hkrunner.boards"] = boards
    importlib.import_module(f"hkrunner.boards.{MODULES[sys.argv[1]]}").main()


if __name__ == "__main__":
    main()
