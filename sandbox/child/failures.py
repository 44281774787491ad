"""What the user's code has raised, as the message that tells the parent of it.

Python 3.8 and newer.
"""

from __future__ import annotations

import sys

from ..shared.entry import Location
from ..shared.messages import Failed
from . import exception_codes, exception_report


def failed(code: str, error: Exception) -> Failed:
    """Return the message for an error of ours, whose text says all."""
    return Failed(code, f"{code}: {error}")


def of_import(error: BaseException, where: Location) -> Failed:
    """Return the message for what importing the entry has raised."""
    told = exception_report.describe(
        error, where.folder, code=exception_codes.import_code(error), during=" during import"
    )
    text: str = told["message"]
    if issubclass(type(error), ModuleNotFoundError):  # isinstance() would ask the user's class
        text = text.replace(" during import", f" (python: {exception_codes.interpreter()})", 1)
    elif type(error) is SyntaxError and told["line"].rpartition(":")[0].endswith(".py"):
        # Whether a newer Python would read it, only a newer Python knows.
        version = sys.version.split()[0]
        text = text.replace(f" ({told['line']})", f" ({told['line']}, read by Python {version})", 1)
    is_deliberate = exception_report.is_deliberate(error)
    return Failed(told["code"], text, told["details"], is_deliberate=is_deliberate)


def of_task(error: BaseException, where: Location, *, may_end: bool) -> Failed:
    """Return the message for what a task has raised. `may_end`: SystemExit ends the process, too."""
    told = exception_report.describe(error, where.folder)
    # Not isinstance(): it would ask __class__ of the user's, which may raise.
    ends = may_end and issubclass(type(error), SystemExit)
    is_deliberate = exception_report.is_deliberate(error)
    return Failed(told["code"], told["message"], told["details"], ends, is_deliberate)
