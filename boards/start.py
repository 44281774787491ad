"""The entry point of a board process and of the REST process: `python -E <this file> board|api`.

Run by file and not with -m, which would put the working folder first on the module path, where a user's
folder named `tensorboard` would be imported. The folder of this file is taken off the path as well, since its
package `tensorboard` would hide the real one; our modules are found through the packages made here.

-E keeps the user's PYTHON* variables out: PYTHONWARNINGS=error alone ends TensorBoard, and a `google.py` in a
folder of PYTHONPATH hides what TensorBoard needs. Only a TensorBoard that is installed nowhere else is looked
for there, as on clusters whose module system sets PYTHONPATH.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types

MODULES = {"board": "tensorboard.board_process", "api": "rest_server"}


def main() -> None:
    """The module that the first argument names has run its main()."""
    here = os.path.dirname(os.path.abspath(__file__))
    # Compared without links: Python has resolved those of the script's folder.
    sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != os.path.realpath(here)]
    if importlib.util.find_spec("tensorboard") is None:
        folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        sys.path += [folder for folder in folders if os.path.isabs(folder)]
    package = types.ModuleType("hkrunner")
    package.__path__ = [os.path.dirname(here)]
    sys.modules["hkrunner"] = package
    boards = types.ModuleType("hkrunner.boards")
    boards.__path__ = [here]
    sys.modules["hkrunner.boards"] = boards
    importlib.import_module(f"hkrunner.boards.{MODULES[sys.argv[1]]}").main()


if __name__ == "__main__":
    main()
