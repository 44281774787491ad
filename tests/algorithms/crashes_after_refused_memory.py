"""Takes all the memory there is in one task, crashes for another reason in the next one."""

import ctypes


def start(args, api):
    how = args["input"][0]
    if how == "fill":
        blocks = []
        while True:
            blocks.append(bytearray(1 << 20))
    if how == "crash":
        ctypes.string_at(0)
    return "served"
