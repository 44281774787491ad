"""Divides the results of a job into lists, which the loop prints one at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..protocol.result import Result

#: Bytes and number of results in a list, after which the loop prints it.
BATCH_BYTES = 1024 * 1024
BATCH_RESULTS = 500
#: How long a fetched result waits for others: each large one takes a request of its own.
BATCH_S = 0.5


def batches(results: Iterator[Result]) -> Iterator[list[Result]]:
    """Yield the results in lists of limited size; none of them waits longer than BATCH_S for the next."""
    batch: list[Result] = []
    size = 0
    began = time.monotonic()
    for result in results:
        batch.append(result)
        size += len(result.output or b"")
        is_late = time.monotonic() - began >= BATCH_S
        if size >= BATCH_BYTES or len(batch) >= BATCH_RESULTS or is_late:
            yield batch
            batch, size = [], 0
            began = time.monotonic()
    if batch:
        yield batch
