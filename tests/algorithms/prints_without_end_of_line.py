"""Prints 30 MB without an end of line."""

import os


def start(args, api):
    block = b"x" * 1_000_000
    for _ in range(30):
        os.write(1, block)
    return "printed"
