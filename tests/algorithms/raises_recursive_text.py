"""Raises an exception whose text is defined by itself."""


class Mirror(Exception):
    def __str__(self):
        return f"[{self}]"


def start(args, api):
    if args["input"][0] == "misbehave":
        raise Mirror
    return "served"
