"""The first lines of a process of ours: `python <this file> board|api`, from any folder, however installed.

Started by file and not with -m: the working folder would come first on the path, and a user's folder named
`tensorboard` would be imported. Our own folder is taken off the path again, since its `tensorboard` would
hide the real one; our modules are found through the package that is made here.
"""

from __future__ import annotations

import importlib
import os
import sys
import types

MODULES = {"board": "tensorboard.board_process", "api": "rest_server"}


def main() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    # Compared without links: Python has resolved those of the script's folder.
    sys.path[:] = [place for place in sys.path if os.path.realpath(place) != os.path.realpath(here)]
    package = types.ModuleType("hkrunner")
    package.__path__ = [os.path.dirname(here)]
    sys.modules["hkrunner"] = package
    boards = types.ModuleType("hkrunner.boards")
    boards.__path__ = [here]
    sys.modules["hkrunner.boards"] = boards
    importlib.import_module(f"hkrunner.boards.{MODULES[sys.argv[1]]}").main()


if __name__ == "__main__":
    main()
