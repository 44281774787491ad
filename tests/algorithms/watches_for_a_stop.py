"""Looks at api.stopping now and then, and ends when it is true."""

import signal


def start(args, api):
    signal.alarm(60)
    print("at work", flush=True)
    assert not api.stopping
    while not api.wait_for_stop(30):
        pass
    assert api.stopping
    print("saw the stop", flush=True)
    return "half of it"
