"""Takes the api by keyword only."""


def start(args, *, hkube_api):
    return [args["input"], type(hkube_api).__name__]
