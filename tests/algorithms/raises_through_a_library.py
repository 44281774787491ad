"""Raises inside the standard library: the last line of its own code is this file's."""

import json


def start(args, api):
    if args["input"][0] == "misbehave":
        json.loads("{broken")
    return "served"
