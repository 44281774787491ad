"""Has a start() without arguments."""


def start():
    return "nothing taken"
