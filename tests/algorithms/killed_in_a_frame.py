"""Is killed when half of a frame is written."""

import os
import signal
import struct

from channel import sockets


def start(args, api):
    if args["input"][0] == "misbehave":
        os.write(sockets()[0], struct.pack("!BBHIQ", 1, 20, 0, 1, 1000) + b"only the beginning")
        os.kill(os.getpid(), signal.SIGKILL)
    return "served"
