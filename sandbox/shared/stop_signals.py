"""The signals that end a run; each process does its own part then. Python 3.8 and newer."""

import signal

#: As in runner/io/signals.py, which shuts hkrunner down.
STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)
