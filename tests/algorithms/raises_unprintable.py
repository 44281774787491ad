"""Raises an exception whose text cannot be made."""


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text for you")

    __repr__ = __str__


def start(args, api):
    if args["input"][0] == "misbehave":
        raise Unprintable
    return "served"
