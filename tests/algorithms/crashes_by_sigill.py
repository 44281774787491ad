"""Ends as code for another processor does."""

import signal


def crash():
    signal.raise_signal(signal.SIGILL)


def start(args, api):
    if args["input"][0] == "misbehave":
        crash()
    return "served"
