"""Starts another algorithm; answers with the size of what came back, or with the error."""


def start(args, api):
    try:
        return len(api.start_algorithm("other", args["input"], timeout=60))
    except api.Error as error:
        return str(error)
