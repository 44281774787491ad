"""Reads an exception of the user's code without running code of its class, as far as that is possible.

Runs in the child, on Python 3.8 and newer. The class may have a __class__ that lies, properties that raise,
and texts whose methods are the user's.
"""

from __future__ import annotations

import builtins
import os
import re
import sys
from types import TracebackType
from typing import Any, List, Optional, Tuple, Type

#: Longest text taken from an exception, in characters.
TEXT_MAX = 4_000
#: Number of errors in groups that are examined.
LEAVES_MAX = 10_000
#: Number of errors of a chain that are examined.
CHAIN_MAX = 20
_GROUP: Optional[Type[BaseException]] = getattr(builtins, "BaseExceptionGroup", None)  # from Python 3.11 on


def cut(text: str, most: int) -> str:
    """Return the text, with its middle left out when it is longer than `most` characters."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    return f"{text[:head]}\n… {len(text) - most:,} characters left out …\n{text[head - most :]}"


def text_of(error: object) -> str:
    """Return str(error), or what its __str__ raised. Never raises."""
    try:
        return cut(exact(str(error)), TEXT_MAX)
    except BaseException as second:  # noqa: BLE001 - the user's __str__ may raise anything, SystemExit too
        return f"<its text cannot be shown: __str__ raised {name_of(second)}>"


def name_of(error: BaseException) -> str:
    """Return the name of the error's class, whatever its metaclass puts in front of it. Never raises."""
    return exact(type.__dict__["__name__"].__get__(type(error)))[:200]


def traceback_of(error: BaseException) -> Optional[TracebackType]:
    """Return the error's traceback, whatever its class puts in front of it. Never raises."""
    trace: Optional[TracebackType] = field(BaseException, "__traceback__", error)
    return trace


def last_entries(trace: Optional[TracebackType], most: int) -> Optional[TracebackType]:
    """Return the end of a traceback, with at most so many entries: one of a recursion may have millions."""
    ahead = trace
    for _ in range(most):
        if ahead is None:
            return trace
        ahead = ahead.tb_next
    while ahead is not None and trace is not None:
        ahead, trace = ahead.tb_next, trace.tb_next
    return trace


def exact(text: str) -> str:
    """Return a str of no subclass, which cannot have methods of the user's."""
    return str.__str__(text)


def is_a(value: object, kind: type) -> bool:
    """Whether the value's real class is of this kind: isinstance() would ask its __class__ as well."""
    return issubclass(type(value), kind)


def field(kind: Type[BaseException], name: str, error: BaseException) -> Any:
    """Return what the interpreter keeps under this name, whatever a subclass puts in front of it."""
    return kind.__dict__[name].__get__(error)


def errno_of(kind: Type[OSError], error: BaseException) -> Optional[int]:
    """Return errno of an OSError of this kind, None for another error or where it is no number."""
    number = field(OSError, "errno", error) if is_a(error, kind) else None
    return number if type(number) is int else None


def integer_of(value: Any) -> int:
    """Return an int, or a text of digits, as the number it is; 0 for anything else."""
    if is_a(value, int):
        return min(int.__int__(value), sys.maxsize)
    if is_a(value, str) and re.match(r"[0-9]{1,18}\Z", value):
        return int(exact(value))
    return 0


def syntax_place(error: BaseException) -> Optional[Tuple[str, int]]:
    """Return file and line that a SyntaxError names, None where there are none to show.

    Parsers of users' own raise it as well, with fields of any type: `("app.cfg", "12", "3", b"x")`.
    """
    if not is_a(error, SyntaxError):
        return None
    filename, lineno = field(SyntaxError, "filename", error), integer_of(field(SyntaxError, "lineno", error))
    if is_a(filename, bytes):
        filename = os.fsdecode(memoryview(filename).tobytes())
    if not is_a(filename, str) or lineno < 1:
        return None
    filename = cut(exact(filename), TEXT_MAX)
    return (filename, lineno) if filename else None


def marked_line(error: BaseException) -> str:
    """Return the source line that a SyntaxError holds, with a caret below its column; "" for none."""
    text = field(SyntaxError, "text", error)
    if is_a(text, bytes):
        text = memoryview(text)[:1000].tobytes().decode("utf-8", "replace")
    line = exact(text).rstrip("\n")[:300] if is_a(text, str) else ""
    if not line:
        return ""
    column = min(max(integer_of(field(SyntaxError, "offset", error)), 1), 300)
    return f"\n    {line}\n    {' ' * (column - 1)}^"


def leaves_of(error: BaseException) -> List[BaseException]:
    """Return the errors in a group and in the groups that it holds; [] for any other error."""
    found: List[BaseException] = []
    waiting = members_of(error)[::-1]
    for _ in range(LEAVES_MAX):
        if not waiting:
            break
        one = waiting.pop()
        inner = members_of(one)
        if inner:
            waiting += inner[::-1]
        else:
            found.append(one)
    return found


def members_of(error: BaseException) -> List[BaseException]:
    """Return the errors that an exception group holds, [] for any other error."""
    return list(field(_GROUP, "exceptions", error)) if _GROUP is not None and is_a(error, _GROUP) else []


def causes_of(error: BaseException) -> List[Tuple[BaseException, str]]:
    """Return the errors that it was raised from, as Python shows them, and how each led to the one before."""
    found: List[Tuple[BaseException, str]] = []
    seen, one = {id(error)}, error
    while len(found) < CHAIN_MAX:
        link = before(one)
        if link is None or id(link[0]) in seen:
            break
        seen.add(id(link[0]))
        found.append(link)
        one = link[0]
    return found


def before(error: BaseException) -> Optional[Tuple[BaseException, str]]:
    """Return the error that it was raised from, as Python shows it, and how that led to it; None: there is
    none, or the code says that it has nothing to do with it (`raise … from None`)."""
    cause = field(BaseException, "__cause__", error)
    if cause is not None:
        return cause, "caused by"
    if field(BaseException, "__suppress_context__", error):
        return None
    context = field(BaseException, "__context__", error)
    return None if context is None else (context, "raised while handling")


def is_larger(error: BaseException, most: int) -> bool:
    """Whether Python's traceback of the error has more than `most` errors: those in its groups, each as often
    as a group holds it, and those that one was raised from, each once."""
    waiting, causes = [error], {id(error)}
    for _ in range(most):
        if not waiting:
            return False
        one = waiting.pop()
        waiting += members_of(one)
        link = before(one)
        if link is not None and id(link[0]) not in causes:
            causes.add(id(link[0]))
            waiting.append(link[0])
    return bool(waiting)
