"""Waits for what never comes, in coroutines of the loop of hkrunner or of its own: input ["start"] or ["run"]."""

import asyncio


async def fetch():
    await asyncio.sleep(60)  # of fetch


async def beat():
    await asyncio.Event().wait()  # of beat


async def main():
    task = asyncio.create_task(beat(), name="beat")
    await asyncio.gather(fetch(), task)


def start(args):
    return main() if args["input"][0] == "start" else asyncio.run(main())
