"""Raises with a text that is six times as long in JSON."""


def start(args, api):
    if args["input"][0] == "misbehave":
        raise ValueError("漢" * 200_000)
    return "served"
