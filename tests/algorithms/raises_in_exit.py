"""Raises in exit()."""


def start(args, api):
    return "served"


def exit(options):
    raise OSError("the database is gone")
