"""Awaits for ever in an async start(), and cleans up when that is cancelled."""

import asyncio
import signal


async def start(args, api):
    signal.alarm(60)
    print("at work", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)
