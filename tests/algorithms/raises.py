"""Raises two calls deep in its own code."""


def column(name):
    raise ValueError(f"no such column: {name}")


def start(args, api):
    if args["input"][0] == "misbehave":
        column("age")
    return "served"
