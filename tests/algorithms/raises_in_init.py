"""Raises in init()."""


def init(args):
    if args["input"][0] == "misbehave":
        raise LookupError("no model")


def start(args, api):
    return "served"
