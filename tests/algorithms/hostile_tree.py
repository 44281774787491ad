"""Starts 55 processes that do not want to be ended; with itself they are 56."""

import signal
import time

import helpers


def start(args, api):
    signal.alarm(60)
    if args["input"][0] != "misbehave":
        return "served"
    for _ in range(10):
        helpers.helper(helpers.plain)
        helpers.helper(helpers.ignoring)
        helpers.helper(helpers.stopped)
        helpers.daemon(helpers.ignoring)
    for _ in range(5):
        helpers.helper(helpers.own_group)
    helpers.nested(10)
    print("the tree stands", flush=True)
    time.sleep(60)
