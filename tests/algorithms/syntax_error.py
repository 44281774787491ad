"""Is no Python from its fifth line on."""


def start(args, api):
    return args[
