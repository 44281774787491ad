"""Imports the files beside it by their plain names."""

import helper
from pieces.inner import INNER


def start(args, api):
    return [helper.NAME, INNER, helper.own_folder()]
