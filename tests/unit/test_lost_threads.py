"""Thread.start() in the algorithm's process raises where its thread ended without having begun."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: A bootstrap that returns at once stands for one whose first allocation failed: start() waited for ever.
CODE = """
import os, threading
from hkrunner.sandbox.child.memory_reserve import notice_lost_threads
notice_lost_threads()
really = threading.Thread._bootstrap

def lose(thread):
    threading.Thread._bootstrap = lambda self: None
    try:
        thread.start()
    except RuntimeError as error:
        assert str(error) == "can't start new thread"
    else:
        raise AssertionError("it was started")
    finally:
        threading.Thread._bootstrap = really

def runs():
    ran = []
    thread = threading.Thread(target=ran.append, args=(1,))
    thread.start()
    thread.join()
    return ran == [1]
"""


@pytest.mark.parametrize(
    "action",
    [
        "lose(threading.Thread()); assert runs()",
        "lose(threading.Timer(0, print)); assert threading.enumerate() == [threading.main_thread()]",
        "one = threading.Thread(); lose(one); assert not one.is_alive()",
        "pid = os.fork() or os._exit(0 if runs() else 1); assert os.waitpid(pid, 0)[1] == 0",
        "from concurrent.futures import ThreadPoolExecutor as Pool; assert list(Pool(8).map(abs, range(99)))",
    ],
)
def test_a_thread_that_is_lost_is_an_error_and_all_others_run(action: str) -> None:
    subprocess.run([sys.executable, "-c", CODE + action], check=True, timeout=60)
