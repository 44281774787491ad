"""Waits in start(), awaited or plain, for what its async stop() does on the same loop."""

import asyncio
import threading

made = {}
may_end = threading.Event()


async def init(args):
    made.update(lock=asyncio.Lock(), event=asyncio.Event(), loop=asyncio.get_running_loop())


async def wait():
    async with made["lock"]:
        print("at work", flush=True)
        await made["event"].wait()
        print("start saw the event", flush=True)


def start(args, api):
    how = args["input"][0]
    if how == "async":
        return wait()
    if how == "own run":
        made["loop"].run_until_complete(wait())
    elif how == "asyncio.run":
        asyncio.run(asyncio.wait_for(asyncio.to_thread(wait_plainly), None))
    else:
        wait_plainly()


def wait_plainly():
    print("at work", flush=True)
    assert may_end.wait(60)
    print("start saw the event", flush=True)


async def stop(options):
    assert asyncio.get_running_loop() is made["loop"]
    made["event"].set()
    may_end.set()
    async with made["lock"]:
        await asyncio.sleep(0.05)
        print("stop had the lock", flush=True)
