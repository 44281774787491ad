"""Calls itself until Python refuses."""


def deeper(level):
    return deeper(level + 1)


def start(args, api):
    if args["input"][0] == "misbehave":
        deeper(0)
    return "served"
