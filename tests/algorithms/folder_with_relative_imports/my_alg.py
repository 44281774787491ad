"""Imports the files beside it with a dot."""

from . import helper
from .pieces.inner import INNER


def start(args, api):
    return [helper.NAME, INNER]
