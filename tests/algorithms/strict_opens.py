"""Answers for each path whether it can be read, and whether it can be written. Changes none of them."""


def opens(path, mode):
    try:
        open(path, mode).close()
    except OSError:
        return False
    return True


def start(args, api):
    return [[opens(path, "rb"), opens(path, "r+b")] for path in args["input"]]
