"""Jobs by the API of HKube's api-server."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from services import Trouble

#: Seconds for one job, on a busy machine.
JOB_S = 900.0


class Jobs:
    """Submits jobs, and waits for them."""

    def __init__(self, url: str) -> None:
        """`url`: of the api-server."""
        self._url = url

    def call(self, route: str, body: Any = None, *, absent: int | None = None) -> Any:
        """Return the answer of a route; None if its status is `absent`. Raises Trouble."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self._url}/api/v1/{route}", data, {"Content-Type": "application/json"}
        )
        for attempt in range(5):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code == absent:
                    return None
                if error.code != 429 or attempt == 4:
                    raise Trouble(f"{route}: {error.code} {error.read()[:500]!r}") from None
                time.sleep(1)
        raise AssertionError

    def add_algorithm(self, name: str) -> None:
        """Store an algorithm with an image, which nobody pulls."""
        image = {"name": name, "algorithmImage": f"registry.example/{name}:1", "cpu": 0.5, "mem": "1Gi"}
        self.call("store/algorithms", image)

    def submit(self, pipeline: dict[str, Any]) -> str:
        """Start a job, and return its id."""
        return str(self.call("exec/raw", pipeline)["jobId"])

    def results(self, job: str) -> dict[str, Any] | None:
        """Return the results of a job that is over; its status may say `active` for ever (see ClusterJob)."""
        return self.call(f"exec/results/{job}", absent=400)

    def wait(self, job: str, meanwhile: Callable[[], None], limit_s: float = JOB_S) -> dict[str, Any]:
        """Return the results once the job is over. Raises Trouble after the limit."""
        end = time.monotonic() + limit_s
        while (found := self.results(job)) is None:
            if time.monotonic() > end:
                raise Trouble(f"job {job} has not ended within {limit_s:g} s")
            meanwhile()
            time.sleep(1)
        return found
