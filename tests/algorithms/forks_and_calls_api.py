"""Uses api in processes that it forks, where it cannot be used; says what became of them."""

import multiprocessing
import os
import signal

signal.alarm(60)


def work(number):
    API.progress(number)
    return number


def work_or_exit():
    try:
        work(1)
    except API.Error:
        os._exit(7)


def start(args, api):
    global API
    API = api
    fork = multiprocessing.get_context("fork")
    if args["input"][0] == "pool":
        with fork.Pool(2) as pool:
            return pool.map(work, range(4))
    process = fork.Process(target=work_or_exit)
    process.start()
    process.join()
    return process.exitcode
