"""Has a forked process log, where threads are replaced as by gevent. Answers 5 by another algorithm."""

import logging
import os

import replaces_threads

logging.basicConfig(format="%(message)s")


def start(args, api):
    assert replaces_threads.is_asked is False
    pid = os.fork()
    if pid == 0:
        for number in range(3):
            logging.warning("record %d", number)
        os._exit(0)
    os.waitpid(pid, 0)
    return api.start_algorithm("adds", [2, 3])
