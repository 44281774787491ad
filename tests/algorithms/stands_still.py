"""Does what its input says, at a breakpoint, a prompt, or in the middle of its work."""

import ctypes
import os
import time


def find(record):
    return record["age"]


def start(args, api):
    (what,) = args["input"]
    print("begins", what, flush=True)
    if what == "breakpoint":
        answer = 41
        breakpoint()
        return answer + 1
    if what == "prompt":
        return input("your name? ")
    if what == "raise":
        return find({})
    if what == "exit":
        os._exit(3)
    if what == "crash":
        ctypes.string_at(0)
    if what == "work":
        while not api.stopping:
            time.sleep(0.01)
    return what


def stop(options):
    print("stop() was called", flush=True)


def exit(options):
    print("exit() was called", flush=True)
