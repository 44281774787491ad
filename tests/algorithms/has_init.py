"""Has an init() that puts something into the dict that start() gets."""

calls = []


def init(args):
    calls.append("init")
    args["model"] = len(calls)


def start(args, api):
    return [args["model"], args["input"]]
