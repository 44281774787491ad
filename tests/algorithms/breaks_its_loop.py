"""Closes all descriptors that it can see, those of the event loop too, and goes on."""

import asyncio
import os


async def start(args, api):
    if args["input"] == ["now"]:
        os.closerange(3, 90)
        await asyncio.sleep(0.01)
    if args["input"] == ["later"]:
        asyncio.get_running_loop().call_soon(os.closerange, 3, 90)
    return args["input"]
