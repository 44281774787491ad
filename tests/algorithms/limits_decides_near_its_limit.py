"""Grows close to its memory limit, and ends as its input says, though nothing was refused."""

import os
import sys

BLOCK = 256 << 10


def private_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon:"))


def start(args):
    how, until = args["input"]
    kept = []
    while private_bytes() < until:
        kept.append(bytearray(b"x") * BLOCK)
    if how == "raise":
        raise RuntimeError("the model has diverged")
    (sys.exit if how == "sys.exit" else os._exit)(3)
