"""Sends itself SIGSTOP and lies there."""

import os
import signal


def start(args, api):
    signal.alarm(60)
    print("at work", flush=True)
    if args["input"][0] != "behave":
        os.kill(os.getpid(), signal.SIGSTOP)
    return "served"
