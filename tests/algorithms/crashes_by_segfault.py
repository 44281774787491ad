"""Reads from address 0."""

import ctypes


def crash():
    ctypes.string_at(0)


def start(args, api):
    if args["input"][0] == "misbehave":
        print("reading address 0", flush=True)
        crash()
    return "served"
