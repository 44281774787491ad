"""Logs what is hard to hand on: errors, extras, objects that cannot be pickled; from a fork, to two handlers."""

import logging
import os
import threading


class Shown(logging.Formatter):
    def format(self, record):
        return f"{super().format(record)} [{record.extra}]"


class Message:
    def __init__(self):
        self.lock = threading.Lock()

    def __str__(self):
        return "a message that cannot be pickled"


def start(args, api):
    root, log = logging.getLogger(), logging.getLogger("algorithm")
    to_stderr = logging.StreamHandler()
    to_stderr.setFormatter(Shown("%(levelname)s %(message)s"))
    to_file = logging.FileHandler(args["input"][0])
    to_file.setLevel(logging.ERROR)
    root.addHandler(to_stderr)
    log.addHandler(to_file)
    worker = os.fork()
    if worker == 0:
        log.warning("plain %s", "words", extra={"extra": {"a": [1]}})
        log.warning(Message(), extra={"extra": threading.Lock()})
        try:
            raise ValueError("from the worker")
        except ValueError:
            log.exception("it failed with %d", 3, extra={"extra": None})
        log.debug("not this")
        root.handlers[0].close()
        log.error("closed in the worker only", extra={"extra": 1})
        os.closerange(3, 4096)
        log.error("all closed", extra={"extra": 2})
        os._exit(0)
    os.waitpid(worker, 0)
    log.error("from the algorithm itself", extra={"extra": 3})
    return [root.handlers[0] is to_stderr, log.handlers[0] is to_file]
