"""Keeps below the rate of requests that HKube's API server allows each client: 5 a second, then 429."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

#: One less than the server's limit: its fixed windows of a second do not begin when ours do.
REQUESTS = 4
#: A little more than the server's second: requests take different times to reach it.
WINDOW_S = 1.1


class RequestPace:
    """Delays requests so that at most REQUESTS begin within any WINDOW_S."""

    def __init__(
        self,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self._clock = clock
        self._begun: deque[float] = deque(maxlen=REQUESTS)

    def wait(self) -> None:
        """Return when the next request may begin, and count it."""
        if len(self._begun) == REQUESTS:
            wait_s = self._begun[0] + WINDOW_S - self._clock()
            if wait_s > 0:
                self._sleep(wait_s)
        self._begun.append(self._clock())

    def refused(self) -> None:
        """Count the whole window as used: the server has answered 429, because of other clients."""
        self._begun.extend([self._clock()] * REQUESTS)
