"""Does what its input says: one process for many kinds of task.

input is [what, value]; a key "init" in the task says what init() is to do.
"""

import ctypes
import os
import signal
import sys
import threading
import time

signal.alarm(100)
stop_asked = threading.Event()
served = []


def init(args):
    stop_asked.clear()
    what = args.get("init")
    if what is not None:
        print("init", what, flush=True)
        do(what, args.get("file"), args)


def start(args, api):
    print("start", flush=True)
    what, value = (args["input"] + [None, None])[:2] if isinstance(args.get("input"), list) else (None, None)
    served.append(what)
    return do(what, value, args)


def do(what, value, args):
    if what == "give":
        return value
    if what == "args":
        return args
    if what == "who":
        return {"pid": os.getpid(), "served": served}
    if what == "bytes":
        return bytes(value)
    if what == "text":
        return "x" * value
    if what == "measure":
        return len(value)
    if what == "raise":
        raise ValueError(value)
    if what == "nan":
        return [float("nan"), float("inf"), 1.5]
    if what == "leave":
        sys.exit(value)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "wait for stop":
        stop_asked.wait()
        return "stopped by itself"
    if what == "wait for file":
        while not os.path.exists(value):
            time.sleep(0.005)
        return "there"
    if what == "sleep":
        while True:
            time.sleep(1)
    if what == "hold the GIL":
        ctypes.PyDLL(None).sleep(90)
    return None


def stop(options):
    print("stop", options, flush=True)
    stop_asked.set()


def exit(options):
    print("exit", options, flush=True)
