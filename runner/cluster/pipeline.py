"""One pipeline for all inputs of a run: a batch node of the algorithm, with a task for each input.

A batch node has a task for each item of a list, and an item is one argument. Inputs with several arguments
therefore need a list for each argument, and inputs with different numbers of arguments different nodes:

    [1] [2] [3]       nodes: sq    input: ["#@flowInput.argument1of1"]
    [1, 2] [3, 4]     nodes: sq-2  input: ["#@flowInput.argument1of2", "#@flowInput.argument2of2"]
    []                nodes: sq-none-1  input: []

Arguments are values of flowInput, where HKube takes every text as it is: in a node's own `input` it would
take "@name" for a reference.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..errors import SettingsError
from .api import json_body
from .transport import Body

#: Each input without arguments needs a node of its own.
WITHOUT_ARGUMENTS_MAX = 100
#: HKube stops a job that is older than this; by default after an hour, too short for ten thousand tasks.
#: There is an end, because nobody may come back to a job that hangs.
LIFETIME_S = 30 * 24 * 3600
#: Failures do not end the other tasks, as in a local run.
_OPTIONS = {"batchTolerance": 100, "ttl": LIFETIME_S}


class BatchPipeline(NamedTuple):
    """A pipeline, ready to be sent."""

    name: str  #: unique, so that the job can be found by it
    body: Body
    nodes: Mapping[str, list[int]]  #: name -> the positions of the inputs that its tasks have, in their order


def batch_pipeline(algorithm: str, inputs: Iterable[bytes]) -> BatchPipeline:
    """Return the pipeline that runs the algorithm once for each input, JSON text of a list.

    Raises SettingsError.
    """
    name = f"{algorithm}-{os.urandom(5).hex()}"
    nodes: dict[str, list[int]] = {}
    references: dict[str, list[str]] = {}
    columns: dict[str, list[bytes]] = {}
    for position, text in enumerate(inputs):
        arguments = _arguments(text, position)
        count = len(arguments)
        if count == 0:
            node = f"{algorithm}-none-{sum(not one for one in references.values()) + 1}"
        else:
            node = algorithm if count == 1 else f"{algorithm}-{count}"
        if node not in nodes:
            keys = [f"argument{number}of{count}" for number in range(1, count + 1)]
            nodes[node], references[node] = [], [f"#@flowInput.{key}" for key in keys]
            columns.update((key, []) for key in keys)
        nodes[node].append(position)
        for number, argument in enumerate(arguments, 1):
            columns[f"argument{number}of{count}"].append(argument)
    if sum(not one for one in references.values()) > WITHOUT_ARGUMENTS_MAX:
        raise SettingsError(f"--on runs at most {WITHOUT_ARGUMENTS_MAX} inputs without arguments: [] is one")
    head = {
        "name": name,
        "nodes": [
            {"nodeName": node, "algorithmName": algorithm, "input": input}
            for node, input in references.items()
        ],
        "options": _OPTIONS,
    }
    return BatchPipeline(name, json_body(_text(head, columns)), nodes)


def _arguments(text: bytes, position: int) -> list[bytes]:
    """Return each argument's JSON text."""
    values: list[Any] = json.loads(text)
    if len(values) == 1:
        return [text.strip()[1:-1]]  # as it was written: numbers keep all their digits
    try:
        return [json.dumps(value, allow_nan=False).encode() for value in values]
    except ValueError:
        raise SettingsError(f"input {position + 1} has a number that JSON cannot hold") from None


def _text(head: Mapping[str, Any], columns: Mapping[str, list[bytes]]) -> bytes:
    """Return the pipeline as JSON; the arguments are joined as they are."""
    if not columns:
        return json.dumps(head).encode()
    flow_input = b",".join(b'"%s":[%s]' % (key.encode(), b",".join(items)) for key, items in columns.items())
    return b'%s,"flowInput":{%s}}' % (json.dumps(head)[:-1].encode(), flow_input)
