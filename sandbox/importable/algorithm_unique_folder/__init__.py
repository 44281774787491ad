"""The algorithm's folder as a package, where the folder's own name cannot be imported.

Found by every process whose sys.path has the folder `importable`: the algorithm's own, and those that
multiprocessing, loky and others start for it, which get a copy of sys.path and of the environment. What the
algorithm's file defines can so be pickled in one and found in the other. HKube has the algorithm's folder
under this name as well. Python 3.8 and newer.
"""

from __future__ import annotations


def _become_the_folder() -> None:
    """Have the modules of the algorithm's folder below this package, and run its `__init__.py` here."""
    import importlib.util
    import os
    import sys

    package = sys.modules[__name__]
    folder = os.environ["_HKRUNNER_ENTRY_FOLDER"]
    entry, file = os.environ["_HKRUNNER_ENTRY"], os.environ["_HKRUNNER_ENTRY_FILE"]

    class EntryFinder:
        """Finds the entry's file under its name here: the file's own name may have dots."""

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
