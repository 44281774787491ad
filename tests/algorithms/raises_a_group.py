"""Raises 200 errors at once; where Python has no such thing, one."""

import builtins


def start(args, api):
    if args["input"][0] == "misbehave":
        group = getattr(builtins, "ExceptionGroup", None)
        if group is None:
            raise ValueError("200 pages failed")
        raise group("200 pages failed", [ValueError(f"page {number}") for number in range(200)])
    return "served"
