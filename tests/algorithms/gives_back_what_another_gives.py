"""Starts the algorithm `other` with its input; answers with what came back, or with the error."""


def start(args, api):
    try:
        value = api.start_algorithm("other", args["input"])
    except api.Error as error:
        return str(error)
    return len(value) if isinstance(value, str) else value
