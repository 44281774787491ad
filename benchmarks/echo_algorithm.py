"""Return the input."""


def start(args, api):
    return args["input"][0]
