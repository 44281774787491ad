"""Has a yield in its async init, which so is never run."""


async def init(args):
    yield


def start(args, api):
    return "served"
