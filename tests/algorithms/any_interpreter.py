"""Uses all that the runner gives an algorithm, in syntax of Python 3.8.

input is [what, value].
"""

import asyncio
import os
import sys
import threading

stop_asked = threading.Event()


class Point:
    def __init__(self, x):
        self.x = x

    def tolist(self):
        return [self.x]


def init(args):
    stop_asked.clear()
    print("init")


def start(args, api):
    what, value = args["input"]
    if what == "who":
        return {"version": list(sys.version_info[:2]), "executable": sys.executable, "folder": os.getcwd()}
    if what == "give":
        return value
    if what == "convert":
        return {"tuple": (1, 2), "set": {3}, 4: "key", "array": Point(5), "bytes": b"\x00", "nan": float("nan")}
    if what == "async":
        return asyncio.run(later(value))
    if what == "raise":
        return fails(value)
    if what == "unsendable":
        return {"a": [object()]}
    if what == "wait":
        print("waiting", flush=True)
        stop_asked.wait()
        return "stopped by itself"
    if what == "call":
        api.progress(0.5)
        return api.start_algorithm("other", [value], includeResult=True)
    if what == "exit":
        sys.exit(3)
    if what == "import":
        import no_such_module  # noqa: F401
    raise AssertionError(what)


async def later(value):
    await asyncio.sleep(0)
    return value


def fails(value):
    raise ValueError(value)


def stop(options):
    print("stop", sorted(options), flush=True)
    stop_asked.set()


def exit(options):
    print("exit", sorted(options), flush=True)
