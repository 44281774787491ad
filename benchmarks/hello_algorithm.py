"""The smallest algorithm."""


def start(args, api):
    return {"hello": args["input"][0]}
