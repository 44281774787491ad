"""Dies in the middle of a line of output, or prints a whole one."""

import os


def start(args, api):
    if args["input"][0] == "misbehave":
        os.write(1, b"a line without an end")
        os._exit(3)
    print("a whole line")
    return "served"
