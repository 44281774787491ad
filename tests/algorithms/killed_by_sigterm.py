"""Sends itself a polite SIGTERM."""

import os
import signal


def start(args, api):
    if args["input"][0] == "misbehave":
        os.kill(os.getpid(), signal.SIGTERM)
    return "served"
