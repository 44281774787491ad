"""algorithm.yml: what hkubectl reads, checked with the texts of HKube's server, and the line it is about.

Two forms are accepted: hkubectl's (`resources: {cpu, gpu, mem}`, `code: {path, entryPoint}`), and the flat
one that the API stores (`cpu`, `gpu`, `mem`, `entryPoint` at the top level). Unknown keys are kept, since
hkubectl passes them on. hkubectl ignores a top-level `entryPoint` next to `code:` or `resources:`; so does
hkrunner, with a note.

`mem` and `cpu` are enforced as written. The cluster is less strict: it adds `reservedMemory` for the data
cache of HKube's wrapper, which hkrunner does not have, and by default kills only above twice the sum.

This file reads the descriptor, which descriptor_search.py has found; descriptor_parser.py turns its text into
values with line numbers, descriptor_schema.py checks the values, js_values.py has JavaScript's rules for
numbers and text.
"""

from __future__ import annotations

import os

from ..errors import SettingsError
from .descriptor_parser import parse
from .descriptor_schema import Checker, Descriptor
from .js_values import kind_of


def read(file: str) -> Descriptor:
    """Return the descriptor in this file; raises SettingsError with the line and HKube's text."""
    file = os.path.abspath(os.path.expanduser(file))
    shown = os.path.basename(file)
    value, lines = parse(file, shown)
    if not isinstance(value, dict):
        raise SettingsError(f"{shown}:1: a descriptor is an object with a name, not {kind_of(value)}")
    return Checker(file, value, lines).descriptor()
