"""Has an async start()."""

import asyncio


async def start(args, api):
    await asyncio.sleep(0)
    return await asyncio.gather(*(double(one) for one in args["input"]))


async def double(value):
    return value * 2
