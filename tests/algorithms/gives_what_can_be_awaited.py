"""Gives, from plain functions, whatever can be awaited; its init and exit are such functions too."""

import asyncio
import functools
import types

log = []


class Later:
    def __init__(self, value):
        self.value = value

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        log.append(self.value)
        return self.value


@types.coroutine
def of_a_generator(value):
    yield from asyncio.sleep(0).__await__()
    return value


async def twice(value):
    await asyncio.sleep(0)
    return value * 2


async def nested(value):
    return Later(value)


async def task_of(value):
    return asyncio.create_task(twice(value))


class Callable:
    async def __call__(self, value):
        return await twice(value)


def future_of(value):
    loop = asyncio.get_event_loop()
    future = loop.create_future()
    loop.call_later(0.01, future.set_result, value)
    return future


def of_another_loop(value):
    loop = asyncio.new_event_loop()
    try:
        return loop.create_future()
    finally:
        loop.close()


async def async_generator(value):
    yield value


WAYS = {
    "object": Later,
    "generator": of_a_generator,
    "partial": functools.partial(twice, 4),
    "callable": Callable(),
    "nested": nested,
    "task": task_of,
    "future": future_of,
    "ensured": lambda value: asyncio.ensure_future(twice(value), loop=asyncio.get_event_loop()),
    "other loop": of_another_loop,
    "async generator": async_generator,
}


def init(args):
    return Later("init")


def start(args, api):
    assert log.pop() == "init"
    way, value = args["input"]
    made = WAYS[way]
    return made() if isinstance(made, functools.partial) else made(value)


def exit(options):
    print("exit returns", flush=True)
    return Later(print("exit is awaited", flush=True))
