"""Mixes up its blocks."""


def start(args, api):
  if args:
        return 1
    return 2
