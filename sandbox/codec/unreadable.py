"""Says why bytes could not be decoded. Python 3.8 and newer; imports nothing large."""

from __future__ import annotations

import sys

#: How the ValueError of json begins, which has no type of its own.
_TOO_LONG = "Exceeds the limit ("


def why(error: Exception, otherwise: str) -> str:
    """Return what is wrong with the bytes: `otherwise` ("is no json") and the text of the error.

    For a long integer it is another sentence: the bytes are JSON, but Python refuses to read it.
    """
    if str(error).startswith(_TOO_LONG):
        most = sys.get_int_max_str_digits()  # type: ignore[attr-defined,unused-ignore]  # as old as the limit
        return f"has an integer of more than {most:,} digits, which Python does not read; write it as a text"
    return f"{otherwise}: {error}"
