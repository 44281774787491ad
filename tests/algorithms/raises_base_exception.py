"""Raises what `except Exception` does not catch."""


class Farewell(BaseException):
    pass


def start(args, api):
    if args["input"][0] == "misbehave":
        raise Farewell("not an Exception")
    return "served"
