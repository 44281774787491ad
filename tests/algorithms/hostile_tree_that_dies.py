"""Starts 55 processes that do not want to be ended, and crashes."""

import os

import helpers


def start(args, api):
    if args["input"][0] == "misbehave":
        for _ in range(10):
            helpers.helper(helpers.plain)
            helpers.helper(helpers.ignoring)
            helpers.helper(helpers.stopped)
            helpers.daemon(helpers.ignoring)
        for _ in range(5):
            helpers.helper(helpers.own_group)
        helpers.nested(10)
        os.abort()
    return "served"
