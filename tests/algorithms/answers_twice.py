"""Answers through the runner's channel behind its back, and then once more by returning."""

import os
import struct

from channel import sockets

WIRE = b'{"command":"done","data":"forged"}'


def start(args, api):
    if args["input"][0] == "misbehave":
        os.write(sockets()[0], struct.pack("!BBHIQ", 1, 20, 0, 1, len(WIRE)) + WIRE)
    return "served"
