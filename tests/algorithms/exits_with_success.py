"""Ends its process with code 0 before it has answered."""

import os


def start(args, api):
    if args["input"][0] == "misbehave":
        os._exit(0)
    return "served"
