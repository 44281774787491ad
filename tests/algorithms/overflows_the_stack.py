"""Recurses through C code with Python's own limit out of the way."""

import functools
import sys


def deeper(_, level):
    return functools.reduce(deeper, [0, level + 1])


def start(args, api):
    if args["input"][0] == "misbehave":
        sys.setrecursionlimit(1_000_000_000)
        deeper(0, 0)
    return "served"
