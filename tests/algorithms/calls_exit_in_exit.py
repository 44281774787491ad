"""Calls sys.exit(9) in exit()."""

import sys


def start(args, api):
    return "served"


def exit(options):
    sys.exit(9)
