"""Sends itself the signal that cannot be caught, as the kernel does when memory runs out."""

import os
import signal


def start(args, api):
    if args["input"][0] == "misbehave":
        os.kill(os.getpid(), signal.SIGKILL)
    return "served"
