"""Asks for another algorithm with inputs that are no lists, or hold what cannot be sent; and for pipelines."""

INPUTS = {"text": "abc", "dict": {"a": 1}, "none": None, "object": [object()]}
PIPELINES = {"nodes": ("text", {}), "node": ([{}, "ab"], {}), "flow": ([], [("a", 1)])}


def start(args, api):
    try:
        if args["input"][0] in PIPELINES:
            return api.start_raw_subpipeline("p", *PIPELINES[args["input"][0]])
        return api.start_algorithm("other", INPUTS[args["input"][0]])
    except api.Error as error:
        return [type(error).__name__, str(error)]
