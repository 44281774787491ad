"""Writes random text into every socket it finds."""

import os
import signal
import time

from channel import sockets


def start(args, api):
    signal.alarm(60)
    if args["input"][0] == "misbehave":
        for number in sockets():
            os.write(number, b"hello, is anybody there? " * 40)
        time.sleep(60)
    return "served"
