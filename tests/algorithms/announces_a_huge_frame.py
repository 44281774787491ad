"""Announces a frame of 2^60 bytes on the runner's channel."""

import os
import signal
import struct
import time

from channel import sockets


def start(args, api):
    signal.alarm(60)
    if args["input"][0] == "misbehave":
        os.write(sockets()[0], struct.pack("!BBHIQ", 1, 20, 0, 1, 2**60))
        time.sleep(60)
    return "served"
