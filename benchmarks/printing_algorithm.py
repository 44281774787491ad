"""An algorithm that prints a line where its input says so."""


def start(args, api):
    if args["input"][0]:
        print("a line")
    return "done"
