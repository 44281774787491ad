"""The entry point of a socket process: `python -E <this file> DESCRIPTOR FOLDER`.

Run by file and not with -m, which would put the working folder first on the module path. FOLDER is where
pyzmq was found by the parent, whose PYTHONPATH may lead there; -E keeps the user's PYTHON* variables out.
"""

from __future__ import annotations

import importlib
import os
import sys
import types


def main() -> None:
    """Serve the parent at the other end of the descriptor."""
    here = os.path.dirname(os.path.abspath(__file__))
    # Compared without links: Python has resolved those of the script's folder.
    sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != os.path.realpath(here)]
    sys.path.append(sys.argv[2])
    package = types.ModuleType("hkrunner")
    package.__path__ = [os.path.dirname(os.path.dirname(here))]
    sys.modules["hkrunner"] = package
    importlib.import_module("hkrunner.runner.streaming.socket_process").main()


if __name__ == "__main__":
    main()
