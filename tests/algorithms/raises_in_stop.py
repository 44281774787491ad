"""Raises in stop(); its start() ends when it is asked."""

import signal


def start(args, api):
    signal.alarm(60)
    print("at work", flush=True)
    api.wait_for_stop(60)
    return "half of it"


def stop(options):
    raise OSError("the camera is gone")
