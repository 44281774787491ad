"""For the programs beside it: processes that are hard to end. Each ends itself after 60 seconds."""

import os
import signal


def plain():
    pass


def ignoring():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def stopped():
    os.kill(os.getpid(), signal.SIGSTOP)


def own_group():
    os.setpgid(0, 0)


def own_session():
    os.setsid()


def helper(become):
    """Start one below this process."""
    if os.fork() == 0:
        work(become)


def daemon(become):
    """Start one that has left the family: its parent has gone."""
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() == 0:
            work(become)
        os._exit(0)
    os.waitpid(middle, 0)


def work(become):
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        # The runner must not wait for what these hold open.
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        become()
        while True:
            signal.pause()
    finally:
        os._exit(0)


def nested(depth):
    """One session inside the other: each starts the next and stays."""
    if depth and os.fork() == 0:
        os.setsid()
        nested(depth - 1)
        work(plain)
