"""The name under which tasks of this code are recorded, compared and shown on boards."""

from __future__ import annotations

import os

from ...sandbox.shared.entry import Location
from ..settings.descriptor_search import without_function
from ..settings.settings import Settings


def code_name(settings: Settings, where: Location) -> str:
    """Return the descriptor's name for the code that it describes, the name of the file for any other."""
    if settings.name is not None and is_described(settings, where):
        return settings.name
    return os.path.splitext(os.path.basename(where.shown))[0]


def is_described(settings: Settings, where: Location) -> bool:
    """Whether the descriptor describes this code. It sets the limits also of other files in its folder.

    A descriptor that names no entry describes whichever file is run.
    """
    descriptor = settings.code.descriptor
    if settings.code.entry is None or descriptor is None or descriptor.entry is None:
        return True
    if descriptor.env != "python":
        return True  # its entry is no module
    own = os.path.normpath(without_function(descriptor.entry)).removesuffix(".py").replace(os.sep, ".")
    return where.module == own
