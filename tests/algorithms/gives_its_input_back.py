"""Returns its input as it came."""


def start(args, api):
    return args["input"]
