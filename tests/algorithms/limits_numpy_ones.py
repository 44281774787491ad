"""Asks numpy for 1 GiB at once, or for as many bytes as it is told."""

import signal

import numpy


def start(args, api):
    signal.alarm(60)
    if args["input"][0] == "misbehave":
        return int(numpy.ones((args["input"][1] if len(args["input"]) > 1 else 1 << 30) // 8)[0])
    return "served"
