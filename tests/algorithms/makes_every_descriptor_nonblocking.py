"""Sets O_NONBLOCK on every descriptor that it finds, hkrunner's sockets too, and gives back a large text."""

import os


def start(args, api):
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            os.set_blocking(fd, False)
        except OSError:  # the one that has listed them
            continue
    return "x" * args["input"][0]
