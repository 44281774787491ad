"""Starts a process by multiprocessing's fork server. Answers the pid of the server."""

import multiprocessing
from multiprocessing import forkserver


def work():
    pass


def start(args, api):
    process = multiprocessing.get_context("forkserver").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    return forkserver._forkserver._forkserver_pid
