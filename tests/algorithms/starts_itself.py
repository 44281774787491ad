"""Starts itself through the code API, without end."""


def start(args, api):
    return api.start_algorithm("itself", args["input"])
