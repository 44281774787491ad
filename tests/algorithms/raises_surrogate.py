"""Raises with text that UTF-8 cannot carry."""


def start(args, api):
    if args["input"][0] == "misbehave":
        raise ValueError("bad file name: \udcff")
    return "served"
