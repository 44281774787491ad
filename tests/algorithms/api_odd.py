"""Gives its input back, but for an odd number, which it refuses."""


def start(args):
    value = args["input"][0]
    if isinstance(value, int) and value % 2:
        raise ValueError(f"odd {value}")
    return args["input"]
