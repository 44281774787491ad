"""Has a name that no import statement can say."""


def start(args, api):
    return "served"
