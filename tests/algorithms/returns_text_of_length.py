"""Returns a text of the length that its input says, or the value itself."""


def start(args):
    value = args["input"][0]
    return "x" * value if isinstance(value, int) else value
