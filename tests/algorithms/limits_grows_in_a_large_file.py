"""Grows until an allocation fails, in a file that is larger than the memory that is left then."""

import importlib
import sys
from pathlib import Path

LINES = 150_000
GROW = """
def grow():
    kept = []
    while True:
        kept.append(bytearray(1000))
"""


def start(args):
    what, *folder = args["input"]
    if what != "misbehave":
        return "served"
    Path(*folder, "is_large.py").write_text(GROW + "# a line of a file that is large\n" * LINES)
    sys.path.insert(0, *folder)
    return importlib.import_module("is_large").grow()
