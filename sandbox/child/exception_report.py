"""Describes an exception of the user's code: one bounded message, most important first.

Runs in the child, on Python 3.8 and newer. HKube's worker keeps only `error.message`, so everything a
user needs stands in it: the code, type and text, the last line of their own code, then their frames.

Nothing that belongs to the exception is trusted: its class may have a __str__ that exits, a __class__ that
lies, a __module__ of None, properties that raise, texts whose methods are the user's.
"""

from __future__ import annotations

import linecache
import os
import sys
import traceback
from types import FrameType, TracebackType
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from .exception_codes import code_of, hint_of, is_about_memory
from .exception_fields import (
    TEXT_MAX,
    causes_of,
    cut,
    exact,
    field,
    is_a,
    is_larger,
    last_entries,
    leaves_of,
    marked_line,
    members_of,
    name_of,
    syntax_place,
    text_of,
    traceback_of,
)
from .memory_reserve import has_room

#: Longest message and longest details, in characters.
MESSAGE_MAX = 12_000
DETAILS_MAX = 60_000
#: Number of notes of an error, and of errors of a group, in a message, and the length to which each is cut.
LISTED_MAX = 10
LISTED_TEXT_MAX = 500
#: Number of errors, in groups and chains, with which Python is asked for a traceback: 0.2 s.
ERRORS_MAX = 10_000
#: Frames read from the end of a traceback.
FRAMES_MAX = 200
#: Calls in the traceback of a cause with which Python is asked for it: 0.2 s.
CALLS_MAX = 100_000
#: With less room below a memory limit, files of a traceback are not kept. The mode "auto" leaves less if any.
ROOM_BYTES = 16 << 20

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
#: Folders in which packages are installed; the second is Debian's.
_INSTALLED = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)


class _StackFrame(NamedTuple):
    filename: str
    lineno: Optional[int]
    name: str
    names: Dict[str, Any]  #: Its global names, by which a module's loader is found.


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
        text = text_of(error)
        message = f"{code}: {name}{during}" + (f": {text}" if text else "")
        message += f" (no more can be shown: describing it raised {name_of(second)})"
        return {"code": code, "message": message, "details": "", "type": name, "line": ""}


def _describe(error: BaseException, folder: str, code: str, during: str) -> Dict[str, Any]:
    name = _full_name(error)
    text = text_of(error)
    frames = _frames(error)
    is_of_memory = is_about_memory(error)
    has_no_room = is_of_memory or not has_room(ROOM_BYTES)  # a library may make any error of refused memory
    source = _source_read_alone if has_no_room else _source
    place = ("" if is_of_memory else _unreadable_file(error, folder)) or _place(frames, folder)
    below = ""
    code = code or code_of(error)
    syntax = syntax_place(error)
    if is_a(error, SystemExit):
        code = "EXITED"
        ended = during or " before it answered"
        sentence = f"sys.exit({_exit_text(error)}) ended the algorithm{ended}"
    elif syntax is not None:
        filename, lineno = syntax
        message = field(SyntaxError, "msg", error)
        sentence = f"{name}: {cut(exact(message), TEXT_MAX) if is_a(message, str) else text}"
        place = f"{_relative(filename, folder)}:{lineno}"
        below = marked_line(error)
    else:
        nothing = "an allocation failed" if is_a(error, MemoryError) else "(without a text)"
        sentence = f"{name}: {text if text.strip() else nothing}{during}"
    message = f"{code}: {sentence}" + (f" ({place})" if place else "") + hint_of(error, text, folder) + below
    message += _notes_and_members(error, folder)
    shown = _shown(frames, folder, source)
    if shown:
        message += "\n" + shown
    details = _traceback_without_room if has_no_room and not members_of(error) else _traceback
    return {
        "code": code,
        "message": cut(message, MESSAGE_MAX),
        "details": cut(details(error, frames, f"{name}: {text}"), DETAILS_MAX),
        "type": name_of(error),
        "line": place,
    }


def _full_name(error: BaseException) -> str:
    """Return the name of the error's class with its module, where there is one that tells more."""
    module = type.__dict__["__module__"].__get__(type(error))
    name = name_of(error)
    if not is_a(module, str) or len(exact(module)) >= 60:
        return name
    module = exact(module)
    return name if module in ("builtins", "__main__", _API) else f"{module}.{name}"


def _exit_text(error: BaseException) -> str:
    code = field(SystemExit, "code", error)
    if code is None:
        return ""
    try:
        return exact(repr(code))[:200]
    except BaseException:  # noqa: BLE001 - the user's __repr__ may raise anything
        return "…"


def _notes_and_members(error: BaseException, folder: str) -> str:
    """Return a line for each note of the error, error of its group and error that it was raised from."""
    try:
        notes: Any = dict.get(field(BaseException, "__dict__", error), "__notes__")
        notes = list(list.__iter__(notes)) if is_a(notes, list) else []
        lines = _listed([text_of(note) for note in notes[:LISTED_MAX]], len(notes))
        leaves = leaves_of(error)
        lines += _listed([_in_one_line(one, folder) for one in leaves[:LISTED_MAX]], len(leaves))
        causes = [_cause(one, how, error, folder) for one, how in causes_of(error)]
        lines += _listed([one for one in causes if one], sum(map(bool, causes)))
    except BaseException as second:  # noqa: BLE001 - keys of its __dict__ may be the user's
        lines = [f"<its notes cannot be shown: {name_of(second)}>"]
    return "".join(f"\n  • {line}" for line in lines)


def _cause(cause: BaseException, how: str, error: BaseException, folder: str) -> str:
    """Return the line about an error that another was raised from, "" where it has nothing to add."""
    if not name_of(cause).endswith("RemoteTraceback"):
        return f"{how} {_in_one_line(cause, folder)}"
    # The traceback of a worker process, which is in the details: most often of the same error.
    told = text_of(cause)
    lines = [line for line in told.splitlines() if line.strip(" '\"")]
    return f"in a worker process: {lines[-1].strip()}" if lines and text_of(error) not in told else ""


def _in_one_line(error: BaseException, folder: str) -> str:
    place = _place(_frames(error), folder)
    text = text_of(error)
    return _full_name(error) + (f": {text}" if text else "") + (f" ({place})" if place else "")


def _listed(texts: List[str], count: int) -> List[str]:
    """Return the first LISTED_MAX of `count` texts, cut to their length, and how many are left out."""
    lines = [cut(text, LISTED_TEXT_MAX).replace("\n", "\n    ") for text in texts[:LISTED_MAX]]
    return lines + ([f"… {count - LISTED_MAX:,} more"] if count > LISTED_MAX else [])


def _frames(error: BaseException) -> List[_StackFrame]:
    """Return the frames of the traceback, without our own and the import system's: the last FRAMES_MAX."""
    frames = []
    for frame, lineno in traceback.walk_tb(last_entries(traceback_of(error), FRAMES_MAX)):
        filename = exact(frame.f_code.co_filename)
        if filename.startswith((_OURS, "<frozen importlib")) or "importlib" + os.sep in filename:
            continue
        frames.append(_StackFrame(filename, lineno, exact(frame.f_code.co_name), frame.f_globals))
    return frames


def _source(frame: _StackFrame) -> str:
    """Return the text of a line, "" where it cannot be read: a module's loader may be the user's."""
    try:
        return exact(linecache.getline(frame.filename, frame.lineno or 0, frame.names)).strip()
    except BaseException:  # noqa: BLE001 - the loader may raise anything
        return ""


def _source_read_alone(frame: _StackFrame) -> str:
    """The same without keeping the file: close to a limit there is no room for those of a traceback."""
    if frame.filename in linecache.cache:
        return _source(frame)
    try:
        with open(frame.filename, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if number == frame.lineno:
                    return line.strip()
    except OSError:  # in an archive
        return _source(frame)
    except BaseException:  # noqa: BLE001 - no memory
        pass
    return ""


def is_library(filename: str) -> bool:
    """Whether the file is of the standard library or an installed package."""
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
        own = next((one for one in reversed(frames) if not is_library(one.filename)), None)
    if own is None:
        return ""
    return f"{_relative(own.filename, folder)}:{own.lineno} in {own.name}"


#: Functions of the import system that read a module's file, with the name that they have for it.
_READERS = {"source_to_code": "path", "_compile_bytecode": "bytecode_path"}


def _unreadable_file(error: BaseException, folder: str) -> str:
    """Return the module's file that Python could not read, as for a null byte, which does not name it; "" for
    any other error."""
    trace = last_entries(traceback_of(error), 2)
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename.startswith("<frozen importlib") and code.co_name in _READERS:
            return _relative(str(trace.tb_frame.f_locals.get(_READERS[code.co_name], "")), folder)
        trace = trace.tb_next
    return ""


def _relative(filename: str, folder: str) -> str:
    return filename[len(folder) + 1 :] if filename.startswith(folder + os.sep) else filename


def _shown(frames: List[_StackFrame], folder: str, source: Callable[[_StackFrame], str]) -> str:
    """Return the frames from the first one of the user's on; of many, the two ends."""
    first = next((i for i, one in enumerate(frames) if not is_library(one.filename)), 0)
    shown, left_out = frames[first:], []
    if len(shown) > 20:
        left_out = [f"  … {len(shown) - 16} more calls …"]
        shown = shown[:8] + shown[-8:]
    lines = [_line(one, folder, source(one)) for one in shown]
    return "\n".join(lines[:8] + left_out + lines[8:])


def _line(frame: _StackFrame, folder: str, text: str) -> str:
    source = f"\n    {text[:200]}" if text else ""
    return f"  {_relative(frame.filename, folder)}:{frame.lineno} in {frame.name}{source}"


def _traceback(error: BaseException, frames: List[_StackFrame], summary: str) -> str:
    """Return the traceback as Python prints it, from the user's code on; if it fails, frames and summary."""
    try:
        deep = [one for one, _ in causes_of(error) if _is_deep(one)]
        if deep or is_larger(error, ERRORS_MAX):
            raise OverflowError
        # Never the whole of a recursion: 200 frames from the end are enough for anybody.
        trace = last_entries(users_traceback(error), FRAMES_MAX)
        lines = traceback.format_exception(type(error), error, trace, limit=-FRAMES_MAX)
        return exact("".join(lines)).replace(_API + ".", "")
    except BaseException as second:  # noqa: BLE001 - it reads attributes of the user's class, which may raise
        rows = _rows(frames, summary, _source)
        return f"{rows}\n<its causes and notes cannot be shown: {name_of(second)}>\n"


def _traceback_without_room(error: BaseException, frames: List[_StackFrame], summary: str) -> str:
    """The same for an allocation that failed: Python, for its own traceback, reads each file as a whole."""
    text = _rows(frames, summary, _source_read_alone) + "\n"
    for cause, how in causes_of(error):
        told = f"{_full_name(cause)}: {text_of(cause)}"
        text = f"{_rows(_frames(cause), told, _source_read_alone)}\n\n{_LINKS[how]}\n\n{text}"
    return text


#: What Python prints between an error and the one that it led to.
_LINKS = {
    "caused by": "The above exception was the direct cause of the following exception:",
    "raised while handling": "During handling of the above exception, another exception occurred:",
}


def _rows(frames: List[_StackFrame], summary: str, source: Callable[[_StackFrame], str]) -> str:
    """Return the frames and the summary like a traceback of Python's."""
    rows = ["Traceback (most recent call last):\n"] if frames else []
    for one in frames:
        text = source(one)
        rows.append(f'  File "{one.filename}", line {one.lineno}, in {one.name}\n')
        rows.append(f"    {text}\n" if text else "")
    return f"{''.join(rows)}{summary}"


def _is_deep(error: BaseException) -> bool:
    """Whether Python would read a traceback of a recursion of more calls than any code needs."""
    trace = traceback_of(error)
    for _ in range(CALLS_MAX):
        if trace is None:
            return False
        trace = trace.tb_next
    return True


def users_traceback(error: BaseException) -> Optional[TracebackType]:
    """Return the traceback of the error from the user's code on; its last entry if there is none of it."""
    trace = traceback_of(error)
    while trace is not None and trace.tb_next is not None and is_ours(trace.tb_frame):
        trace = trace.tb_next
    return trace


def is_deliberate(error: BaseException) -> bool:
    """Whether a `raise` or sys.exit() of the user's code has made the error, and no other error led to it.

    Any other may be a library's answer to memory that it did not get. Never raises.
    """
    try:
        trace = last_entries(traceback_of(error), 2)
        links = [field(BaseException, name, error) for name in ("__cause__", "__context__")]
        has_others = any(one is not None for one in links) or members_of(error)
        if trace is None or has_others:
            return False
        is_exit = is_a(error, SystemExit)
        if trace.tb_next is not None and not (is_exit and _is_exit_of_site(trace.tb_next.tb_frame)):
            trace = trace.tb_next
        code, at = trace.tb_frame.f_code, trace.tb_lasti
        if is_ours(trace.tb_frame) or is_library(code.co_filename):
            return False
        return is_exit or (at >= 0 and code.co_code[at : at + 1] == _RAISE)  # a frame of Cython has no code
    except Exception:  # noqa: BLE001 - no memory; or something of the user's that is like no other
        return False


def _is_exit_of_site(frame: FrameType) -> bool:
    """Whether the frame is of exit() or quit(), which Python's module site makes."""
    return os.path.basename(frame.f_code.co_filename) in ("_sitebuiltins.py", "<frozen _sitebuiltins>")


def _instruction_of_raise() -> bytes:
    """Return the instruction of a `raise`, a number that differs between versions of Python."""
    try:
        raise LookupError
    except LookupError as error:
        trace = error.__traceback__
        assert trace is not None, "it was raised"
        return trace.tb_frame.f_code.co_code[trace.tb_lasti : trace.tb_lasti + 1]


_RAISE = _instruction_of_raise()


def is_ours(frame: FrameType) -> bool:
    """Whether the frame runs code of hkrunner, not the user's."""
    return frame.f_code.co_filename.startswith(_OURS)
