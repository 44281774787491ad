"""The name of an algorithm that has no descriptor: made from the name of its folder."""

from __future__ import annotations

import os
import re

from ..errors import SettingsError

#: HKube's rule for names of algorithms; descriptor_schema.py checks the same.
_NAME = re.compile(r"[a-z0-9][-a-z0-9.]{,30}[a-z0-9]")
RULE = "HKube's names have 2 to 32 of a-z, 0-9, dash and dot"


def is_algorithm_name(text: str) -> bool:
    """Whether HKube takes the text for the name of an algorithm."""
    return _NAME.fullmatch(text) is not None


def algorithm_name(folder: str) -> str:
    """Return the name of an algorithm in this folder. Raises SettingsError if none can be derived."""
    name = re.sub(r"[^-a-z0-9.]+", "-", os.path.basename(folder).lower()).strip("-.")
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{os.path.basename(folder)!r} gives no name for an algorithm: {RULE}. Name it in algorithm.yml"
            " (name: my-alg), or rename the folder"
        )
    return name
