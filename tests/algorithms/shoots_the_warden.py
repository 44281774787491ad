"""Kills the process that guards it."""

import os
import signal
import time


def start(args, api):
    signal.alarm(60)
    if args["input"][0] == "misbehave":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return "served"
