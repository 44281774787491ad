"""Has loops made by a policy of its own, as uvloop does, and makes one for good in a plain init."""

import asyncio


class Loop(asyncio.SelectorEventLoop):
    """A loop of its own."""


class Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self):
        return Loop()


asyncio.set_event_loop_policy(Policy())
made = {}


async def make():
    made["queue"] = asyncio.Queue()
    made["loop"] = asyncio.get_running_loop()


def init(args):
    if args["input"][0] == "set" and not made:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(make())


async def start(args, api):
    loop = asyncio.get_running_loop()
    if made:
        loop.call_later(0.01, made["queue"].put_nowait, "put")
        await asyncio.wait_for(made["queue"].get(), 10)
    return [type(loop).__name__, made.get("loop", loop) is loop]
