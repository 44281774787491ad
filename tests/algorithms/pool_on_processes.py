"""Run tasks that misbehave in a Pool on the processes of an executor, which are forks; print what becomes of them."""

import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import hkrunner


def misbehave(what, size=0):
    if what == "abort":
        os.abort()
    if what == "loop":
        time.sleep(60)
    return {"pid": os.getpid(), "read": len(bytearray(os.urandom(1 << 20) * size))}


def told(future):
    error = future.exception()
    if error is None:
        return "done", future.result()["read"]
    return error.result.reason, error.result.limit_bytes


if __name__ == "__main__":
    with ProcessPoolExecutor(1) as executor:
        with hkrunner.Pool(misbehave, executor=executor, mem="256Mi", timeout=60) as pool:
            futures = [pool.submit("nothing"), pool.submit("abort"), pool.submit("memory", size=600)]
            futures += [pool.schedule(["loop"], timeout=0.3), pool.submit("nothing", 2)]
            json.dump([told(one) for one in futures], sys.stdout)
