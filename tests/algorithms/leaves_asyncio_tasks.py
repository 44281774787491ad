"""Leaves asyncio tasks running, which fail between two tasks or as they are cancelled, or go on."""

import asyncio

left = []


async def fails():
    await asyncio.sleep(0.01)
    raise ValueError("the heartbeat is lost")


async def fails_when_cancelled():
    try:
        await asyncio.sleep(60)
    finally:
        raise OSError("the socket is gone")


async def goes_on():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("not yet", flush=True)


async def cleans_up():
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        print("cleaned up", flush=True)


async def start(args, api):
    how = args["input"][0]
    if how == "await":
        try:
            await left[0]
        except ValueError as error:
            return f"awaited: {error}"
    left.append(asyncio.create_task(globals()[how]()))
    await asyncio.sleep(0)
    if args["input"][1:] == ["exit"]:
        raise SystemExit(0)
    return how
