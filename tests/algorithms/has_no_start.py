"""Has functions, but none that is called start."""


def main(args, api):
    return 1


def helper():
    return 2
