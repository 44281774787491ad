"""Part of a package that has its own __init__.py."""

from . import READY
from .helper import NAME


def start(args, api):
    return [READY, NAME]
