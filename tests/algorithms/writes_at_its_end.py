"""Says good-bye when the interpreter ends."""

import atexit

atexit.register(print, "good-bye from atexit", flush=True)


def start(args, api):
    return "served"
