"""The entry point of the storage process: `python -I <this file> FD PATHS`.

Run by file and not with -m, which would put the working folder first on the module path. The folder of this
file is taken off the path as well: its modules are imported as what they are, parts of a package. PATHS is
hkrunner's module path in JSON: packages that only hkrunner finds (PYTHONPATH, `pip install --user`) are found
here as well, after all others.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import types


def module_path(own: list[str], told: list[str], here: str) -> list[str]:
    """Return where modules are looked for: not in the folder `here`, nor in one that is relative."""
    known = own + [folder for folder in told if os.path.isabs(folder) and folder not in own]
    return [folder for folder in known if os.path.realpath(folder) != here]


def main() -> None:
    """Make hkrunner's packages importable from where this file is, and serve."""
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = module_path(sys.path, json.loads(sys.argv[2]), here)
    package = types.ModuleType("hkrunner")
    package.__path__ = [os.path.dirname(os.path.dirname(here))]
    sys.modules["hkrunner"] = package
    importlib.import_module("hkrunner.runner.storage.storage_process").main()


if __name__ == "__main__":
    main()
