"""Sleeps until it is ended; knows nothing of being stopped."""

import signal
import time


def start(args, api):
    signal.alarm(60)
    print("asleep", flush=True)
    while args["input"][0] != "behave":
        time.sleep(1)
    return "served"
