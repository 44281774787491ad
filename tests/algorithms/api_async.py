"""Awaits several calls of the code API at once."""

import asyncio


async def start(args, api):
    algorithm = api.begin_algorithm("adds", [1, 2])
    calls = [api.begin_algorithm("adds", [number]) for number in range(3)]
    nodes = [{"nodeName": "n", "algorithmName": "adds", "input": [4, 5]}]
    pipeline = api.begin_raw_subpipeline("p", nodes)

    async def result_of(call):
        return await call

    return await asyncio.gather(algorithm.wait(20), pipeline.wait(20), *(result_of(call) for call in calls))
