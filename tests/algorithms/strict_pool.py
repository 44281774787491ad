"""A script that gives code that is not trusted to hkrunner.Pool and hkrunner.run; prints what came of it."""

import json
import os
import sys

import hkrunner


def work(what, path=""):
    if what == "crash":
        os._exit(3)
    if what == "grow":
        held = []
        while True:
            held.append(b"x" * (10 << 20))
    if what == "read":
        with open(path) as file:
            return file.read()
    return {"bytes": len(what), "seccomp": "Seccomp:\t2" in open("/proc/self/status").read()}


def error(future):
    return future.exception(timeout=60).result.error


def main():
    secret, code, level = sys.argv[1:]
    options = {"sandbox": "strict", "sandbox_level": level, "mem": "200Mi"}
    found = {}
    try:
        with hkrunner.Pool(work, workers=2, **options) as pool:
            found["large"] = pool.submit(b"x" * 3_000_000).result(timeout=60)
            found["secret"] = error(pool.submit("read", secret)).message
            found["crash"] = error(pool.submit("crash")).code
            found["grow"] = error(pool.submit("grow")).code
            found["many"] = list(pool.map(["short"] * 100)) == [{"bytes": 5, "seccomp": True}] * 100
        with hkrunner.Pool(code, workers=1, spare=False, read=[os.path.dirname(secret)], **options) as pool:
            found["opened"] = pool.submit([secret]).result(timeout=60)
    except hkrunner.EntryUnusable as refused:
        found["refused"] = str(refused)
    try:
        found["run"] = [one.output for one in hkrunner.run(code, [secret], **options)]
    except hkrunner.HkrunnerError as refused:
        found["run refused"] = str(refused)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
