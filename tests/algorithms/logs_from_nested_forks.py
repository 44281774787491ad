"""Logs from a process that is forked by one that is forked by one ...; none of them waits for another."""

import logging
import os

logging.basicConfig(level=logging.INFO, format="%(message)s")


def start(args, api):
    generations, size = args["input"][0]
    ended, held = os.pipe()
    for generation in range(generations):
        if os.fork() != 0:
            if generation:
                os._exit(0)
            break
        logging.info("generation %d %s end", generation, "x" * size)
    else:
        os._exit(0)
    os.close(held)
    os.read(ended, 1)  # until the last of them has gone
    return generations
