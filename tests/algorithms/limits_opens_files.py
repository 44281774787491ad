"""Opens ever more files, 5,000 at most."""

import os


def start(args, api):
    if args["input"][0] != "misbehave":
        return "served"
    kept = []
    try:
        while len(kept) < 5000:
            kept.append(open(os.devnull))
    finally:
        for one in kept:
            one.close()
    return len(kept)
