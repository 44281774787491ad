"""Describes an exception of the user's code: one bounded message, most important first.

Runs in the child, on Python 3.8 and newer. HKube's worker keeps only `error.message`, so everything a
user needs stands in it: the code, type and text, the last line of their own code, then their frames.

Nothing that belongs to the exception is trusted: its class may have a __str__ that exits, a __class__ that
lies, a __module__ of None, properties that raise, texts whose methods are the user's.
"""

from __future__ import annotations

import builtins
import collections
import errno
import linecache
import os
import re
import resource
import sys
import traceback
from types import FrameType, TracebackType
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Type

from . import requirements

#: Longest text taken from an exception, longest message, longest details; in characters.
TEXT_MAX = 4_000
MESSAGE_MAX = 12_000
#: So many errors of a chain are looked at.
CHAIN_MAX = 20
DETAILS_MAX = 60_000
#: So many notes of an error, and so many errors of a group, stand in a message; each one cut to this length.
LISTED_MAX = 10
LISTED_TEXT_MAX = 500
#: Frames read from the end of a traceback.
FRAMES_MAX = 200

_GROUP: Optional[Type[BaseException]] = getattr(builtins, "BaseExceptionGroup", None)  # from Python 3.11 on
#: Module of the code API's errors, left out when they are shown. It stays their __module__, by which an error
#: that comes out of a pool of processes is unpickled.
_API = __name__.rpartition(".")[0] + ".api_call"
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
#: Folders of the standard library: its Python files, and those of one kind of machine (Fedora's lib64). Not
#: asked of sysconfig, whose import takes 3 ms of each start.
_LIBRARIES = tuple(
    {
        folder + os.sep
        for folder in (
            os.path.dirname(os.__file__),
            os.path.join(
                sys.base_exec_prefix, getattr(sys, "platlibdir", "lib"), "python%d.%d" % sys.version_info[:2]
            ),
        )
    }
)
#: Where packages are installed, whoever names the folder (Debian's own name is the second).
_INSTALLED = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)


class _StackFrame(NamedTuple):
    filename: str
    lineno: Optional[int]
    name: str
    line: str  #: Its source text, "" where there is none.


def cut(text: str, most: int) -> str:
    """Return the text, with its middle left out when it is longer than `most` characters."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    return f"{text[:head]}\n… {len(text) - most:,} characters left out …\n{text[head - most :]}"


def text_of(error: object) -> str:
    """Return str(error), or what its __str__ raised. Never raises."""
    try:
        return cut(_exact(str(error)), TEXT_MAX)
    except BaseException as second:  # noqa: BLE001 - the user's __str__ may raise anything, SystemExit too
        return f"<its text cannot be shown: __str__ raised {name_of(second)}>"


def name_of(error: BaseException) -> str:
    """Return the name of the error's class, whatever its metaclass puts in front of it. Never raises."""
    return _exact(type.__dict__["__name__"].__get__(type(error)))[:200]


def traceback_of(error: BaseException) -> Optional[TracebackType]:
    """Return the error's traceback, whatever its class puts in front of it. Never raises."""
    trace: Optional[TracebackType] = _field(BaseException, "__traceback__", error)
    return trace


def describe(error: BaseException, folder: str, *, code: str = "", during: str = "") -> Dict[str, Any]:
    """Return {"code", "message", "details", "type", "line"} for an exception of the user's code.

    `during` names the function when it is not start(). Never raises: the class of the error is the user's,
    and so may be whatever its attributes and methods do.
    """
    try:
        return _describe(error, folder, code, during)
    except BaseException as second:  # noqa: BLE001 - most likely no memory: the answer must go out all the same
        code = code or "ALGORITHM_ERROR"
        name = name_of(error)
        message = f"{code}: {name}{during} (no more can be shown: describing it raised {name_of(second)})"
        return {"code": code, "message": message, "details": "", "type": name, "line": ""}


def _describe(error: BaseException, folder: str, code: str, during: str) -> Dict[str, Any]:
    name = _full_name(error)
    text = text_of(error)
    frames = _frames(error)
    place = _place(frames, folder)
    below = ""
    code = code or _code(error)
    syntax = _syntax_place(error)
    if _is_a(error, SystemExit):
        code = "EXITED"
        sentence = f"sys.exit({_exit_text(error)}) ended the algorithm{during} before it answered"
    elif syntax is not None:
        filename, lineno = syntax
        message = _field(SyntaxError, "msg", error)
        sentence = f"{name}: {cut(_exact(message), TEXT_MAX) if _is_a(message, str) else text}"
        place = f"{_relative(filename, folder)}:{lineno}"
        below = _marked_line(error)
    else:
        nothing = "an allocation failed" if _is_a(error, MemoryError) else "(without a text)"
        sentence = f"{name}: {text or nothing}{during}"
    message = f"{code}: {sentence}" + (f" ({place})" if place else "") + _hint(error, text, folder) + below
    message += _notes_and_members(error, folder)
    shown = _shown(frames, folder)
    if shown:
        message += "\n" + shown
    return {
        "code": code,
        "message": cut(message, MESSAGE_MAX),
        "details": cut(_traceback(error, frames, f"{name}: {text}"), DETAILS_MAX),
        "type": name_of(error),
        "line": place,
    }


def _full_name(error: BaseException) -> str:
    """Return the name of the error's class with its module, where there is one that tells more."""
    module = type.__dict__["__module__"].__get__(type(error))
    name = name_of(error)
    if not _is_a(module, str) or len(_exact(module)) >= 60:
        return name
    module = _exact(module)
    return name if module in ("builtins", "__main__", _API) else f"{module}.{name}"


def _exact(text: str) -> str:
    """Return a str of no subclass, which cannot have methods of the user's."""
    return str.__str__(text)


def _is_a(value: object, kind: type) -> bool:
    """Whether the value's real class is of this kind: isinstance() would ask its __class__ as well."""
    return issubclass(type(value), kind)


def _field(kind: Type[BaseException], name: str, error: BaseException) -> Any:
    """Return what the interpreter keeps under this name, whatever a subclass puts in front of it."""
    return kind.__dict__[name].__get__(error)


def _number(kind: Type[OSError], error: BaseException) -> Optional[int]:
    """Return errno of an OSError of this kind, None for another error or where it is no number."""
    number = _field(OSError, "errno", error) if _is_a(error, kind) else None
    return number if type(number) is int else None


def _is_signal_denied(error: BaseException) -> bool:
    return _number(PermissionError, error) == errno.EPERM and _field(OSError, "filename", error) is None


def is_about_memory(error: Optional[BaseException]) -> bool:
    """Whether the error, one that it was raised from, or one in its group, is an allocation that failed.
    Never raises."""
    waiting = [] if error is None else [error]
    for _ in range(CHAIN_MAX):
        if not waiting:
            return False
        one = waiting.pop()
        if _is_a(one, MemoryError) or _number(OSError, one) == errno.ENOMEM:
            return True
        waiting += _members(one)[:CHAIN_MAX]
        cause = _field(BaseException, "__cause__", one)
        cause = cause if cause is not None else _field(BaseException, "__context__", one)
        if cause is not None:
            waiting.append(cause)
    return False


def import_code(error: BaseException) -> str:
    """Return the code for code that cannot be imported: a memory limit is named before that. Never raises."""
    code = "IMPORT_FAILED"
    if is_about_memory(error) and resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY:
        code = "MEMORY_ERROR"
    return code


def _code(error: BaseException) -> str:
    if is_about_memory(error):
        return "MEMORY_ERROR"
    if _number(OSError, error) in (errno.EMFILE, errno.ENFILE):
        return "TOO_MANY_FILES"
    if _is_signal_denied(error):
        return "DENIED"
    return "ALGORITHM_ERROR"


def _hint(error: BaseException, text: str, folder: str) -> str:
    """Return what helps against this error, or the limit that it ran into, where there is one to name."""
    if _is_a(error, ModuleNotFoundError):
        module = _field(ImportError, "name", error)
        entry = os.environ.get("_HKRUNNER_ENTRY_FILE", "")
        return requirements.hint(_exact(module) if _is_a(module, str) else None, folder, interpreter(), entry)
    if _is_a(error, AttributeError) and "on <module '__main__'" in text:
        file = os.path.basename(os.environ.get("_HKRUNNER_ENTRY_FILE", "")) or "the algorithm"
        return f"; the pickle is of a script, which it calls __main__: define or import its names in {file}"
    number = _number(OSError, error)
    if number == errno.EMFILE:
        return f"; {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} open files are allowed (--files)"
    if _is_signal_denied(error):
        return "; an algorithm may send signals to its own processes only"
    if _is_a(error, EOFError) and text == "EOF when reading a line":
        return "; its stdin is empty: values come by --input, and with --in-process it has the terminal"
    if number == errno.EFBIG:
        return "; the size of a file is limited"
    if number == errno.ENOSPC:
        return "; the disk is full"
    if _is_a(error, RuntimeError) and "start new thread" in text:
        return (
            "; the memory limit (--mem) or the system's own leaves no room for its stack: "
            "--mem-mode auto counts only what is used of it"
        )
    return ""


def _exit_text(error: BaseException) -> str:
    code = _field(SystemExit, "code", error)
    if code is None:
        return ""
    try:
        return _exact(repr(code))[:200]
    except BaseException:  # noqa: BLE001 - the user's __repr__ may raise anything
        return "…"


def _syntax_place(error: BaseException) -> Optional[Tuple[str, int]]:
    """Return file and line that a SyntaxError names, None where there are none to show.

    Parsers of users' own raise it as well, with fields of any type: `("app.cfg", "12", "3", b"x")`.
    """
    if not _is_a(error, SyntaxError):
        return None
    filename, lineno = _field(SyntaxError, "filename", error), _whole(_field(SyntaxError, "lineno", error))
    if _is_a(filename, bytes):
        filename = os.fsdecode(memoryview(filename).tobytes())
    if not _is_a(filename, str) or lineno < 1:
        return None
    filename = cut(_exact(filename), TEXT_MAX)
    return (filename, lineno) if filename else None


def _whole(value: Any) -> int:
    """Return an int, or a text of digits, as the number it is; 0 for anything else."""
    if _is_a(value, int):
        return min(int.__int__(value), sys.maxsize)
    if _is_a(value, str) and re.match(r"[0-9]{1,18}\Z", value):
        return int(_exact(value))
    return 0


def _marked_line(error: BaseException) -> str:
    """Return the source line that a SyntaxError holds, with a caret below its column; "" for none."""
    text = _field(SyntaxError, "text", error)
    if _is_a(text, bytes):
        text = memoryview(text)[:1000].tobytes().decode("utf-8", "replace")
    line = _exact(text).rstrip("\n")[:300] if _is_a(text, str) else ""
    if not line:
        return ""
    column = min(max(_whole(_field(SyntaxError, "offset", error)), 1), 300)
    return f"\n    {line}\n    {' ' * (column - 1)}^"


def _members(error: BaseException) -> List[BaseException]:
    """Return the errors that an exception group holds, [] for any other error."""
    return list(_field(_GROUP, "exceptions", error)) if _GROUP is not None and _is_a(error, _GROUP) else []


def _notes_and_members(error: BaseException, folder: str) -> str:
    """Return a line for each note of the error and for each error of its group, "" where there are none."""
    try:
        notes: Any = dict.get(_field(BaseException, "__dict__", error), "__notes__")
        notes = list(list.__iter__(notes)) if _is_a(notes, list) else []
        lines = _listed([text_of(note) for note in notes[:LISTED_MAX]], len(notes))
        members = []
        for one in _members(error)[:LISTED_MAX]:
            place = _place(_frames(one), folder)
            members.append(f"{_full_name(one)}: {text_of(one)}" + (f" ({place})" if place else ""))
        lines += _listed(members, len(_members(error)))
    except BaseException as second:  # noqa: BLE001 - keys of its __dict__ may be the user's
        lines = [f"<its notes cannot be shown: {name_of(second)}>"]
    return "".join(f"\n  • {line}" for line in lines)


def _listed(texts: List[str], count: int) -> List[str]:
    """Return the first LISTED_MAX of `count` texts, cut to their length, and how many are left out."""
    lines = [cut(text, LISTED_TEXT_MAX).replace("\n", "\n    ") for text in texts[:LISTED_MAX]]
    return lines + ([f"… {count - LISTED_MAX:,} more"] if count > LISTED_MAX else [])


def _frames(error: BaseException) -> List[_StackFrame]:
    """Return the frames of the traceback, without our own and the import system's: the last FRAMES_MAX."""
    last = collections.deque(traceback.walk_tb(traceback_of(error)), maxlen=FRAMES_MAX)
    frames = []
    for frame, lineno in last:
        filename = _exact(frame.f_code.co_filename)
        if filename.startswith((_OURS, "<frozen importlib")) or "importlib" + os.sep in filename:
            continue
        frames.append(_StackFrame(filename, lineno, _exact(frame.f_code.co_name), _source(frame, lineno)))
    return frames


def _source(frame: FrameType, lineno: Optional[int]) -> str:
    """Return the text of a line, "" where it cannot be read: a module's loader may be the user's."""
    try:
        return _exact(linecache.getline(frame.f_code.co_filename, lineno or 0, frame.f_globals)).strip()
    except BaseException:  # noqa: BLE001 - the loader may raise anything
        return ""


def _is_library(filename: str) -> bool:
    return filename.startswith((*_LIBRARIES, "<")) or _is_installed(filename)


def _is_installed(filename: str) -> bool:
    return any(one in filename for one in _INSTALLED)


def _place(frames: List[_StackFrame], folder: str) -> str:
    """Return `file:line in function` of the last frame in the user's own code."""
    own: Optional[_StackFrame] = None
    for frame in frames:
        if frame.filename.startswith(folder + os.sep) and not _is_installed(frame.filename):
            own = frame
    if own is None:
        own = next((one for one in reversed(frames) if not _is_library(one.filename)), None)
    if own is None:
        return ""
    return f"{_relative(own.filename, folder)}:{own.lineno} in {own.name}"


def _relative(filename: str, folder: str) -> str:
    return filename[len(folder) + 1 :] if filename.startswith(folder + os.sep) else filename


def _shown(frames: List[_StackFrame], folder: str) -> str:
    """Return the frames from the first one of the user's on; of many, the two ends."""
    first = next((i for i, one in enumerate(frames) if not _is_library(one.filename)), 0)
    lines = [_line(one, folder) for one in frames[first:]]
    if len(lines) > 20:
        lines[8:-8] = [f"  … {len(lines) - 16} more calls …"]
    return "\n".join(lines)


def _line(frame: _StackFrame, folder: str) -> str:
    source = f"\n    {frame.line[:200]}" if frame.line else ""
    return f"  {_relative(frame.filename, folder)}:{frame.lineno} in {frame.name}{source}"


def _traceback(error: BaseException, frames: List[_StackFrame], summary: str) -> str:
    """Return the traceback as Python prints it; where that fails, the frames and the summary."""
    try:
        # Never the whole of a recursion: 200 frames from the end are enough for anybody.
        lines = traceback.format_exception(type(error), error, traceback_of(error), limit=-FRAMES_MAX)
        return _exact("".join(lines)).replace(_API + ".", "")
    except BaseException as second:  # noqa: BLE001 - it reads attributes of the user's class, which may raise
        rows = [
            f'  File "{one.filename}", line {one.lineno}, in {one.name}\n'
            + (f"    {one.line}\n" if one.line else "")
            for one in frames
        ]
        head = "Traceback (most recent call last):\n" if rows else ""
        return f"{head}{''.join(rows)}{summary}\n<its causes and notes cannot be shown: {name_of(second)}>\n"


def interpreter() -> str:
    """Return the interpreter's path, for messages about missing modules."""
    return sys.executable or "python"


def is_ours(frame: FrameType) -> bool:
    """Whether the frame runs code of hkrunner, not the user's."""
    return frame.f_code.co_filename.startswith(_OURS)
