"""Writes right frames into the runner's channel, more than the runner can hold: with descriptors, or long ones."""

import array
import json
import os
import signal
import socket
import struct


def start(args, api):
    signal.alarm(60)
    what = args["input"][0]
    if what == "behave":
        return "served"
    kind, body = (26, {"rss_bytes": 1}) if what == "descriptors" else (24, {"text": "x" * 200_000})
    data = json.dumps(body).encode()
    frame = struct.pack("!BBHIQ", 1, kind, 0, 0, len(data)) + data
    null = os.open(os.devnull, os.O_RDONLY)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 12))]
    names = [name for name in os.listdir("/proc/self/fd") if is_socket(name)]
    with socket.socket(fileno=os.dup(min(map(int, names)))) as channel:
        channel.setblocking(True)
        for _ in range(2000):
            if what == "descriptors":
                channel.sendmsg([frame], rights)
            else:
                channel.sendall(frame)
    return "nobody minded"


def is_socket(name):
    try:
        return os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    except OSError:
        return False
