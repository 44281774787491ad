"""Prints 64 MB while it is imported."""

import os

BLOCK = (b"x" * 127 + b"\n") * 8192
for _ in range(64):
    os.write(1, BLOCK)


def start(args, api):
    return "served"
