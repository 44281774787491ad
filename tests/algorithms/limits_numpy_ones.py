"""Asks numpy for 1 GiB at once."""

import signal

import numpy


def start(args, api):
    signal.alarm(60)
    if args["input"][0] == "misbehave":
        return int(numpy.ones(1 << 27)[0])
    return "served"
