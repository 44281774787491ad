"""Starts 10 daemons and answers as if nothing had happened."""

import helpers


def start(args, api):
    if args["input"][0] == "misbehave":
        for _ in range(10):
            helpers.daemon(helpers.ignoring)
    return "served"
