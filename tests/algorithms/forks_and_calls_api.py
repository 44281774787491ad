"""Uses api in processes that it forks, where it cannot be used; says what became of them."""

import multiprocessing
import signal

signal.alarm(60)


def work(number):
    API.progress(number)
    return number


def start(args, api):
    global API
    API = api
    fork = multiprocessing.get_context("fork")
    if args["input"][0] == "pool":
        with fork.Pool(2) as pool:
            return pool.map(work, range(4))
    process = fork.Process(target=work, args=(1,))
    process.start()
    process.join()
    return process.exitcode
