"""Sleeps in C code that keeps Python's lock: no other thread of it runs."""

import ctypes
import signal


def start(args, api):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)
    print("at work", flush=True)
    if args["input"][0] == "misbehave":
        ctypes.PyDLL(None).sleep(59)
    return "served"


def stop(options):
    print("never called")
