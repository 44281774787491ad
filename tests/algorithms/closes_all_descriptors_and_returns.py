"""Closes every descriptor above 2 and then answers."""

import os


def start(args, api):
    if args["input"][0] == "misbehave":
        os.closerange(3, 4096)
    return "served"
