"""Raises an exception whose text, when asked for, ends the process."""

import sys


class Trap(Exception):
    def __str__(self):
        sys.exit(9)


def start(args, api):
    if args["input"][0] == "misbehave":
        raise Trap
    return "served"
