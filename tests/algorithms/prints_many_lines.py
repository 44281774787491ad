"""Prints 100,000 numbered lines."""


def start(args, api):
    for number in range(100_000):
        print("line", number)
    return "printed"
