"""Reads from a mapped file that became shorter."""

import mmap
import tempfile


def crash():
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        file.truncate(0)
        return memory[0]


def start(args, api):
    if args["input"][0] == "misbehave":
        crash()
    return "served"
