"""Replaces threads at import, as gevent.monkey.patch_all(): they run only when who has started them waits."""

import signal
import threading
import time

# Only then gevent adapts the locks of the import system, one of which is held for this module.
assert threading.enumerate() == [threading.main_thread()]
ident = threading.get_ident
threading.get_ident = lambda: ident()
for name in ("_start_new_thread", "_start_joinable_thread"):  # the latter from Python 3.13 on
    if hasattr(threading, name):
        setattr(threading, name, lambda *args, **more: 1)
is_asked = False


def start(args):
    signal.alarm(60)
    print("at work", flush=True)
    while not is_asked:
        time.sleep(0.01)


def stop(options):
    global is_asked
    print(f"stop called in {threading.current_thread().name}", flush=True)
    is_asked = True
