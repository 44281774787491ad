"""Calls sys.exit(3) instead of returning."""

import sys


def start(args, api):
    if args["input"][0] == "misbehave":
        print("about to exit")
        sys.exit(3)
    return "served"
