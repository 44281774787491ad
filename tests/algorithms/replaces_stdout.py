"""Puts something in the place of sys.stdout that cannot be written or flushed."""

import sys


class Broken:
    def write(self, text):
        raise RuntimeError("no")

    flush = write


def start(args, api):
    if args["input"][0] == "misbehave":
        sys.stdout = Broken()
        sys.stderr = None
    return "served"
