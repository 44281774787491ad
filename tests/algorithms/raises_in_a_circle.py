"""Raises an exception that is its own cause, by a detour."""


def start(args, api):
    if args["input"][0] == "misbehave":
        first, second = ValueError("first"), KeyError("second")
        first.__cause__, second.__cause__ = second, first
        raise first
    return "served"
