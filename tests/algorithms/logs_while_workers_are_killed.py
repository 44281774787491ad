"""Kills a worker in the middle of its record, 12 times; another logs all the while, and so does this process."""

import logging
import os
import signal
import threading


class Gate(logging.StreamHandler):
    """Holds whoever emits the record "gate" until it is opened."""

    def __init__(self):
        super().__init__()
        self.reached, self.opened = threading.Event(), threading.Event()

    def emit(self, record):
        if record.getMessage() == "gate":
            self.reached.set()
            self.opened.wait(10)
        else:
            super().emit(record)


def state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def start(args, api):
    gate = Gate()
    gate.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("algorithm")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(gate)
    told, tell = os.pipe()
    again, go_on = os.pipe()
    other = os.fork()
    if other == 0:
        for number in range(12):
            os.read(again, 1)
            log.info("other %d %s end", number, "y" * 20000)
        os._exit(0)
    caught = 0
    for number in range(12):
        gate.reached.clear()
        gate.opened.clear()
        worker = os.fork()
        if worker == 0:
            log.info("gate")
            os.write(tell, b"x")
            log.info("torn %s", "x" * 1000000)
            os._exit(0)
        gate.reached.wait(10)
        os.read(told, 1)
        while state(worker) != "S":  # it waits: its pipe is full, and whoever reads it is at the gate
            os.sched_yield()
        caught += 1
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        gate.opened.set()
        log.info("main %d %s end", number, "z" * 20000)
        os.write(go_on, b"x")
    os.waitpid(other, 0)
    return caught
