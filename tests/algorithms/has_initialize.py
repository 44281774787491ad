"""Has an initialize() instead of an init()."""


def initialize(args):
    args["model"] = "loaded"


def start(args, api):
    return args["model"]
