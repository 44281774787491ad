"""Makes a queue, a lock, a background task and a connection once, and uses them in every task."""

import asyncio

made = {}
beats = 0


async def beat():
    global beats
    while True:
        beats += 1
        await asyncio.sleep(0.005)


async def echo(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()


async def init(args):
    if not made:
        made.update(queue=asyncio.Queue(), lock=asyncio.Lock(), beat=asyncio.create_task(beat()))
    asyncio.get_running_loop().call_later(0.01, made["queue"].put_nowait, args["input"][0])


async def start(args, api):
    before = beats
    if "connection" not in made:
        made["server"] = await asyncio.start_server(echo, "127.0.0.1", 0)
        made["connection"] = await asyncio.open_connection(*made["server"].sockets[0].getsockname())
    reader, writer = made["connection"]
    async with made["lock"]:
        got = await asyncio.wait_for(made["queue"].get(), 10)
    writer.write(b"hello\n")
    line = await asyncio.wait_for(reader.readline(), 10)
    while beats == before:
        await asyncio.sleep(0.005)
    return [got, line.decode().strip(), made["beat"].done()]


async def exit(options):
    made["connection"][1].close()
    async with made["lock"]:
        print("exit has the lock", flush=True)
