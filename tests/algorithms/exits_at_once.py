"""Calls os._exit(3): no clean-up of any kind."""

import os


def start(args, api):
    if args["input"][0] == "misbehave":
        print("the last words", flush=True)
        os._exit(3)
    return "served"
