"""Has a default for the api, as HKube's examples do."""


def start(args, hkubeApi=None):
    return [args["input"], hkubeApi is not None]
