"""Misbehave in the way that the task's input names."""

import ctypes
import os
import signal
import sys
import threading
import time

stopped = threading.Event()


def start(args, api):
    what, *more = args["input"]
    return globals()[what](*more)


def stop(options):
    stopped.set()


def nothing():
    return "served"


def waits_for_stop():
    stopped.clear()
    stopped.wait(60)
    return "stopped"


def hangs():
    while True:
        time.sleep(1)


def holds_the_gil(seconds=60):
    ctypes.PyDLL(None).sleep(seconds)
    return "served"


def sleeps(seconds):
    time.sleep(seconds)
    return "served"


def returns(count):
    return "x" * count


def exits():
    sys.exit(3)


def exits_at_once():
    os._exit(3)


def aborts():
    os.abort()


def segfaults():
    ctypes.string_at(0)


def is_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def is_terminated():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def divides_by_zero():
    os.kill(os.getpid(), signal.SIGFPE)
