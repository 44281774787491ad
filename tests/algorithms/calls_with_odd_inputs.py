"""Asks for another algorithm with inputs that are no lists, or hold what cannot be sent."""

INPUTS = {"text": "abc", "dict": {"a": 1}, "none": None, "object": [object()]}


def start(args, api):
    try:
        return api.start_algorithm("other", INPUTS[args["input"][0]])
    except api.Error as error:
        return [type(error).__name__, str(error)]
