"""Closes every descriptor above 2, as programs that become daemons do, and goes on."""

import os
import signal
import time


def start(args, api):
    signal.alarm(60)
    if args["input"][0] == "misbehave":
        os.closerange(3, 4096)
        time.sleep(60)
    return "served"
