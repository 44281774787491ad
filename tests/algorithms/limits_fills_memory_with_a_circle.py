"""Fills the memory with small objects that hold each other, and asks for one more until there is not a byte."""


class Small:
    __slots__ = ("one", "other")


def start(args, api):
    if args["input"] == ["behave"]:
        return "served"
    circle = []
    while True:
        small = Small()
        small.one = small.other = circle
        circle.append(small)
