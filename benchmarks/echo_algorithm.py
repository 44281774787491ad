"""Return the input; with "in" only its length, and with "out" a text of the length that is the input."""


def start(args, api):
    value, *direction = args["input"]
    if direction == ["in"]:
        return len(value)
    if direction == ["out"]:
        return "x" * value
    return value
