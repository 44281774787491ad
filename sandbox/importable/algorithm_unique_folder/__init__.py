"""A package that stands for the algorithm's folder, if the folder's own name cannot be imported.

Every process whose sys.path has the folder `importable` finds it: the algorithm's own, and those that
multiprocessing, loky and others start for it with a copy of sys.path and of the environment. So an object of
the algorithm's file can be pickled in one of them and unpickled in another. In HKube's images,
the algorithm's folder has this name too. Python 3.8 and newer.
"""

from __future__ import annotations


def _become_the_folder() -> None:
    """Make the modules of the algorithm's folder importable below this package, and run its `__init__.py`."""
    import importlib.util
    import os
    import sys

    package = sys.modules[__name__]
    folder = os.environ["_HKRUNNER_ENTRY_FOLDER"]
    entry, file = os.environ["_HKRUNNER_ENTRY"], os.environ["_HKRUNNER_ENTRY_FILE"]

    class EntryFinder:
        """Finds the entry's file by the entry's module name: the file's own name may contain dots."""

        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> object:
            return importlib.util.spec_from_file_location(name, file) if name == entry else None

    package.__path__ = [folder]
    sys.meta_path.insert(0, EntryFinder)  # type: ignore[arg-type]
    init = os.path.join(folder, "__init__.py")
    if os.path.isfile(init):
        spec = importlib.util.spec_from_file_location(__name__, init, submodule_search_locations=[folder])
        assert spec is not None and spec.loader is not None, "a .py file always has a loader"
        package.__file__, package.__doc__ = init, None
        spec.loader.exec_module(package)


_become_the_folder()
