"""Reserves 1 GiB and touches little of it."""

import signal

import numpy


def start(args, api):
    signal.alarm(60)
    if args["input"][0] != "misbehave":
        return "served"
    sparse = numpy.zeros(1 << 27)
    sparse[:: 1 << 24] = 1
    return int(sparse[:: 1 << 24].sum())
