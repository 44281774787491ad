"""Logs from the workers of a pool that it forks, each record far longer than a pipe takes at once.

task: {"when": "before" or "after" the pool logging is set up, "count": records, "size": characters in each}
"""

import logging
import multiprocessing

log = logging.getLogger("algorithm")


def work(job):
    number, size = job
    log.warning("record %d %s end", number, "x" * size)
    return number


def set_up():
    logging.basicConfig(level=logging.INFO, format="%(processName)s: %(message)s")


def start(args, api):
    task = args["input"][0]
    if task["when"] == "before":
        set_up()
    jobs = [(number, task["size"]) for number in range(task["count"])]
    with multiprocessing.get_context(task.get("method", "fork")).Pool(4) as pool:
        if task["when"] == "after":
            set_up()
        return len(pool.map(work, jobs, chunksize=1))
