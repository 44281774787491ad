"""Ends its process in init()."""

import os


def init(args):
    if args["input"][0] == "misbehave":
        os._exit(3)


def start(args, api):
    return "served"
