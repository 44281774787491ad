"""Gives its input back."""


def start(args, api):
    return args["input"][0]
