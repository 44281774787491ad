"""Counts from 1 to what its input says."""


def start(args):
    return list(range(1, args["input"][0] + 1))
