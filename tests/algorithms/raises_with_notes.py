"""Raises an error with a note that says for which file it was; before Python 3.11, with a longer text."""


def start(args, api):
    if args["input"][0] == "misbehave":
        error = ValueError("7 is no date")
        if not hasattr(error, "add_note"):
            raise ValueError("7 is no date\n  • in sales.csv, line 12")
        error.add_note("in sales.csv, line 12")
        raise error
    return "served"
