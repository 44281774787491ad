"""Ends its process without an answer, once a spare one has had the time to get ready."""

import os
import time


def start(args, api):
    if args["input"][0] == "misbehave":
        time.sleep(1)
        os._exit(3)
    return os.getpid()
