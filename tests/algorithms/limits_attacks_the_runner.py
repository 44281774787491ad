"""Tries what a process can do to the one that guards it. Answers what came of each attempt."""

import os
import resource
import signal
import time


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def attempt(function, *args):
    try:
        function(*args)
    except OSError as error:
        return type(error).__name__
    return "done"


def read(path):
    with open(path, "rb") as file:
        file.read(1)


def start(args, api):
    signal.alarm(60)
    what = args["input"][0]
    warden = os.getppid()
    runner = parent_of(warden)
    if what == "look":
        return {
            "signal the warden": attempt(os.kill, warden, 0),
            "kill the warden": attempt(os.kill, warden, signal.SIGKILL),
            "kill the runner": attempt(os.kill, runner, signal.SIGKILL),
            "environment of the warden": attempt(read, f"/proc/{warden}/environ"),
            "environment of the runner": attempt(read, f"/proc/{runner}/environ"),
            "memory of the runner": attempt(read, f"/proc/{runner}/mem"),
        }
    if what == "kill all":
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            time.sleep(20)
            os._exit(0)
        # Where signals are not confined this would reach everybody: see the first answer.
        os.kill(-1, signal.SIGKILL)
        return os.WTERMSIG(os.waitpid(pid, 0)[1])
    if what == "own facts":
        with open("/proc/self/oom_score_adj") as file:
            score = int(file.read())
        names = sorted(os.readlink(f"/proc/self/fd/{one}").partition(":")[0] for one in fds())
        return {"oom_score_adj": score, "fds": names, "pid": os.getpid()}
    if what == "open the cgroup":
        return attempt(lambda: os.close(os.open(args["input"][1], os.O_WRONLY)))
    if what == "limit the runner":
        return attempt(resource.prlimit, runner, resource.RLIMIT_NOFILE, (64, 64))
    return "served"


def fds():
    found = []
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and os.path.lexists(f"/proc/self/fd/{name}"):
            found.append(name)
    return found
