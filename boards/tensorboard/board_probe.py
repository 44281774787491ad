"""Looks at a board by HTTP, as a visitor does."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

from .host_check import PROBE_HEADER

_TIMEOUT_S = 10.0


class BoardProbe:
    """Requests to one board that do not count as visits."""

    def __init__(
        self,
        url: str,
        *,
        health_path: str,
        list_path: str,
        list_key: str | None = None,
        count: Callable[[Any], int] = len,
        cookie: str = "",
    ) -> None:
        """Below the URL, health_path answers once the board listens, and list_path lists what it shows.

        list_key: where the list is in the answer, if the answer is not the list. count: of tasks or studies
        in that list.
        """
        address, _, base = url.removeprefix("http://").partition("/")
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._health_path, self._list_path = f"/{base}{health_path}", f"/{base}{list_path}"
        self._list_key = list_key
        self._count = count
        self._headers = {PROBE_HEADER: "1", "Cookie": cookie}

    def is_answered(self) -> bool:
        """Whether visitors get an answer."""
        return self._get(self._health_path) is not None

    def count(self) -> int | None:
        """Return how many tasks or studies the board shows; None when it gives no usable answer."""
        value = self._get(self._list_path)
        try:
            return self._count(value if self._list_key is None else value[self._list_key])
        except (KeyError, TypeError, AttributeError):
            return None

    def _get(self, path: str) -> Any:
        """Return the JSON value at the path; None when there is none."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", path, headers=self._headers)
            response = connection.getresponse()
            body = response.read()
            return json.loads(body) if response.status == 200 else None
        except (OSError, ValueError, http.client.HTTPException):
            return None
        finally:
            connection.close()
