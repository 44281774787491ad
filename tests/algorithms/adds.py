"""Adds its input up."""


def start(args, api):
    return sum(args["input"])
