"""Errors as a caller catches them, with their traceback."""

from __future__ import annotations

from collections.abc import Callable


def caught(function: Callable[[], object]) -> BaseException:
    """Return what the function raises."""
    try:
        function()
    except BaseException as error:  # noqa: BLE001 - of any kind
        return error
    raise AssertionError("nothing was raised")
