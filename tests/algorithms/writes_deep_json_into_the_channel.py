"""Sends a frame whose JSON is nested deeper than a parser goes."""

import os
import signal
import struct
import time

from channel import sockets


def start(args, api):
    signal.alarm(60)
    if args["input"][0] == "misbehave":
        body = b"[" * 100_000
        for task in range(3):
            os.write(sockets()[0], struct.pack("!BBHIQ", 1, 25, 0, task, len(body)) + body)
        time.sleep(60)
    return "served"
