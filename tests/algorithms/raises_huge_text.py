"""Raises with 20 MB of text."""


def start(args, api):
    if args["input"][0] == "misbehave":
        raise ValueError("begins here " + "x" * 20_000_000 + " ends here")
    return "served"
