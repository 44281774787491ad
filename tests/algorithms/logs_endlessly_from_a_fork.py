"""Answers while a process that it has forked goes on to log, for ever."""

import logging
import os

logging.basicConfig(level=logging.INFO, format="%(message)s")


def start(args, api):
    if os.fork() == 0:
        while True:
            logging.info("x" * 1000)
    return "answered"
