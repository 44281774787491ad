"""The entry point of the storage process: `python -I <this file> FD`.

Run by file and not with -m, which would put the working folder first on the module path. The folder of this
file is taken off the path as well: its modules are imported as what they are, parts of a package.
"""

from __future__ import annotations

import importlib
import os
import sys
import types


def main() -> None:
    """Make hkrunner's packages importable from where this file is, and serve."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != os.path.realpath(here)]
    package = types.ModuleType("hkrunner")
    package.__path__ = [os.path.dirname(os.path.dirname(here))]
    sys.modules["hkrunner"] = package
    importlib.import_module("hkrunner.runner.storage.storage_process").main()


if __name__ == "__main__":
    main()
