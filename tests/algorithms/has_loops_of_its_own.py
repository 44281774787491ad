"""Uses asyncio itself in plain functions, beside an async init and exit."""

import asyncio

made = {}


async def init(args):
    made.setdefault("queue", asyncio.Queue()).put_nowait("from init")


def start(args, api):
    how = args["input"][0]
    if how == "run":
        return asyncio.run(asyncio.sleep(0, "run"))
    if how == "new loop":
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(asyncio.sleep(0, "new loop"))
        finally:
            loop.close()
    if how == "get_event_loop":
        return asyncio.get_event_loop().run_until_complete(asyncio.wait_for(made["queue"].get(), 10))
    return take()


async def take():
    return await asyncio.wait_for(made["queue"].get(), 10)
