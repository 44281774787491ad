"""Start a command with signals blocked or ignored: python inherited_signals.py block|ignore NAMES COMMAND…"""

import os
import signal
import sys

how, names, *command = sys.argv[1:]
numbers = [getattr(signal, f"SIG{name}") for name in names.split(",")]
if how == "block":
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
else:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
os.execvp(command[0], command)
