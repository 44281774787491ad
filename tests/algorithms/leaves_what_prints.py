"""Tasks "thread", "process" and "daemon" leave something that prints while later tasks run; "fail" dies.

"quick" ends a process that it has started, and leaves nothing. "ended" has what was left end.
"""

import os
import subprocess
import sys
import threading
import time

ended = threading.Event()


def print_on(what):
    while not ended.wait(0.02):
        os.write(1, b"of the %s\n" % what.encode())


def start(args, api):
    what = args["input"][0]
    if what == "thread":
        threading.Thread(target=print_on, args=(what,), name="ticker", daemon=True).start()
    if what == "process" and os.fork() == 0:
        print_on(what)
    if what == "daemon":
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                print_on(what)
            os._exit(0)
        os.waitpid(middle, 0)
    if what == "quick":
        subprocess.run([sys.executable, "-c", ""], check=True)
    if what == "ended":
        ended.set()
        time.sleep(0.1)
    if what == "fail":
        print("mine", flush=True)
        time.sleep(0.1)
        os._exit(3)
    return what
