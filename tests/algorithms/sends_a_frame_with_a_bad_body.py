"""Sends a well-formed frame that holds no JSON where JSON belongs."""

import os
import signal
import struct
import time

from channel import sockets


def start(args, api):
    signal.alarm(60)
    if args["input"][0] == "misbehave":
        for task in range(3):
            os.write(sockets()[0], struct.pack("!BBHIQ", 1, 21, 0, task, 5) + b"{oops")
        time.sleep(60)
    return "served"
