"""Has a start that wants a keyword nobody gives."""


def start(args, *, model):
    return model
