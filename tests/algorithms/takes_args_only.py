"""Has a start() of one argument."""


def start(args):
    return args["input"]
