"""How an exception of the user's code is told: one bounded message, most important first.

Runs in the child, on Python 3.8 and newer. HKube's worker keeps only `error.message`, so everything a
user needs stands in it: the code, type and text, the last line of their own code, then their frames.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
import traceback
from types import FrameType
from typing import Any, Dict, List, Optional

from . import requirements

#: Longest text taken from an exception, longest message, longest details; in characters.
TEXT_MAX = 4_000
MESSAGE_MAX = 12_000
DETAILS_MAX = 60_000

#: The errors of the code API are known by their names: the module is called so in the child alone. That
#: stays their __module__, for an error that is pickled on its way out of a pool.
_API = __name__.rpartition(".")[0] + ".api_call"
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
#: Where the standard library lies: its Python files, and those of one kind of machine (Fedora's lib64). Not
#: sysconfig's own word for it, which takes 3 ms of each start to find.
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


def cut(text: str, most: int) -> str:
    """Return the text, with its middle left out when it is longer than `most` characters."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    return f"{text[:head]}\n… {len(text) - most:,} characters left out …\n{text[head - most :]}"


def text_of(error: object) -> str:
    """Return str(error), whatever its __str__ does."""
    try:
        return cut(str(error), TEXT_MAX)
    except BaseException as second:  # noqa: BLE001 - user code, at its worst: its __str__ may do anything
        return f"<its text cannot be shown: __str__ raised {type(second).__name__}>"


def describe(error: BaseException, folder: str, *, code: str = "", during: str = "") -> Dict[str, Any]:
    """Return {"code", "message", "details", "type", "line"} for an exception of the user's code.

    `during` names the function when it is not start(). Never raises.
    """
    name = type(error).__name__
    module = type(error).__module__
    if module not in ("builtins", "__main__", _API):
        name = f"{module}.{name}" if len(module) < 60 else name
    text = text_of(error)
    frames = _frames(error)
    place = _place(frames, folder)
    below = ""
    if not code:
        code = _code(error)
    if isinstance(error, SystemExit):
        code, sentence = (
            "EXITED",
            f"sys.exit({_exit_text(error)}) ended the algorithm{during} before it answered",
        )
    elif isinstance(error, SyntaxError) and error.filename and error.lineno:
        sentence = f"{name}: {error.msg}"
        place = f"{_relative(error.filename, folder)}:{error.lineno}"
        if error.text:
            line = error.text.rstrip("\n")
            below = f"\n    {line[:300]}\n    {' ' * min(max(error.offset or 1, 1) - 1, 300)}^"
    else:
        nothing = "an allocation failed" if isinstance(error, MemoryError) else "(without a text)"
        sentence = f"{name}: {text or nothing}"
        if during:
            sentence += during
    message = f"{code}: {sentence}" + (f" ({place})" if place else "") + _hint(error, folder) + below
    shown = _shown(frames, folder)
    if shown:
        message += "\n" + shown
    return {
        "code": code,
        "message": cut(message, MESSAGE_MAX),
        "details": cut(_full(error), DETAILS_MAX),
        "type": type(error).__name__,
        "line": place,
    }


def _code(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "MEMORY_ERROR"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "TOO_MANY_FILES"
    if isinstance(error, PermissionError) and error.errno == errno.EPERM and error.filename is None:
        return "DENIED"
    return "ALGORITHM_ERROR"


def _hint(error: BaseException, folder: str) -> str:
    """Return what helps against this error, or the limit that it ran into, where there is one to name."""
    if isinstance(error, ModuleNotFoundError):
        return requirements.hint(error.name, folder, interpreter())
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return f"; {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} open files are allowed (--files)"
    if isinstance(error, PermissionError) and error.errno == errno.EPERM and error.filename is None:
        return "; an algorithm may send signals to its own processes only"
    if isinstance(error, EOFError) and str(error) == "EOF when reading a line":
        return "; its stdin is empty: values come by --input, and with --in-process it has the terminal"
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "; the size of a file is limited"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "; the disk is full"
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return (
            "; the memory limit (--mem) or the system's own leaves no room for its stack: "
            "--mem-mode rss counts only what is used of it"
        )
    return ""


def _exit_text(error: SystemExit) -> str:
    if error.code is None:
        return ""
    try:
        return repr(error.code)[:200]
    except Exception:  # noqa: BLE001
        return "…"


def _frames(error: BaseException) -> List[traceback.FrameSummary]:
    """Return the frames from the first one of the user's on; our own and the import system's left out."""
    try:
        frames = list(traceback.extract_tb(error.__traceback__, limit=-200))
    except Exception:  # noqa: BLE001
        return []
    return [
        frame
        for frame in frames
        if not frame.filename.startswith((_OURS, "<frozen importlib"))
        and "importlib" + os.sep not in frame.filename
    ]


def _is_library(filename: str) -> bool:
    return filename.startswith((*_LIBRARIES, "<")) or _is_installed(filename)


def _is_installed(filename: str) -> bool:
    return any(one in filename for one in _INSTALLED)


def _place(frames: List[traceback.FrameSummary], folder: str) -> str:
    """Return `file:line in function` of the last frame in the user's own code."""
    own: Optional[traceback.FrameSummary] = None
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


def _shown(frames: List[traceback.FrameSummary], folder: str) -> str:
    first = next((i for i, one in enumerate(frames) if not _is_library(one.filename)), 0)
    frames = frames[first:]
    lines: List[str] = []
    if len(frames) > 20:
        skipped = len(frames) - 16
        frames = frames[:8] + frames[-8:]
        lines = [_line(one, folder) for one in frames[:8]]
        lines.append(f"  … {skipped} more calls …")
        lines += [_line(one, folder) for one in frames[8:]]
    else:
        lines = [_line(one, folder) for one in frames]
    return "\n".join(lines)


def _line(frame: traceback.FrameSummary, folder: str) -> str:
    code = f"\n    {frame.line[:200]}" if frame.line else ""
    return f"  {_relative(frame.filename, folder)}:{frame.lineno} in {frame.name}{code}"


def _full(error: BaseException) -> str:
    try:
        # Never the whole of a recursion: 200 frames from the end are enough for anybody.
        lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-200)
        return "".join(lines).replace(_API + ".", "")
    except BaseException as second:  # noqa: BLE001
        return f"<no traceback: {type(second).__name__} while formatting it>"


def interpreter() -> str:
    """Return the interpreter's path, for messages about missing modules."""
    return sys.executable or "python"


def is_ours(frame: FrameType) -> bool:
    """It belongs to the runner, not to the user's code."""
    return frame.f_code.co_filename.startswith(_OURS)
