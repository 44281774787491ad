"""Has a yield in its init, which so is never run."""


def init(args):
    yield


def start(args, api):
    return "served"
