"""Raises KeyboardInterrupt, as code that was written for a terminal may."""


def start(args, api):
    if args["input"][0] == "misbehave":
        raise KeyboardInterrupt
    return "served"
