"""Advice after refused memory: whether it caused a failure, and which limit would be enough."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ...sandbox.parent.exit_report import REFUSED_S
from ...sandbox.shared.limits import GI, MI, UNITS, Limits, format_bytes, option_for_memory, set_by
from ...sandbox.shared.messages import HeldBack
from ...sandbox.shared.outcome import Cause, Exit, LimitBreach
from ..protocol.messages import Failure

#: numpy's text for the size of an allocation that failed.
_ASKED = re.compile(r"Unable to allocate (\d{1,9}(?:\.\d{0,9})?) ([KMGTPE]i)B")
_SIZES = {**UNITS, "Pi": 2**50, "Ei": 2**60}
#: The same of torch, tensorflow and jax, in bytes.
_ASKED_BYTES = re.compile(r"(?:allocate|allocating) (\d{1,19}) bytes")
#: Texts of libraries about an allocation that failed.
_ALLOCATION = re.compile(
    r"bad_alloc|DefaultCPUAllocator|[Cc]annot allocate memory(?! in static TLS)|can't allocate memory"
    r"|[Oo]ut of memory|RESOURCE_EXHAUSTED|[Ff]ailed to allocate|[Mm]emory allocation|Unable to allocate"
    r"|MemoryError|OutOfMemoryError|[Ii]nsufficient memory|[Nn]ot enough memory"
    r"|[Cc]ould not (?:allocate|reserve)|failed to map segment from shared object(?!: Operation not)"
)
#: About a thread, whose stack had no room.
_THREAD = re.compile(r"start new thread|pthread_create failed|unable to create (?:new )?native thread")
#: About what a process may do for other reasons, too: OpenBLAS sends itself a SIGINT, workers end.
_PROCESS = re.compile(
    r"[Rr]esource temporarily unavailable|BrokenProcessPool|TerminatedWorkerError|CalledProcessError"
    r"|DataLoader worker|died unexpectedly|KeyboardInterrupt"
)
#: Errors of the code itself, whatever memory is left.
_OF_CODE = frozenset((
    "ArithmeticError", "AssertionError", "AttributeError", "FileNotFoundError", "IndentationError",
    "IndexError", "KeyError", "LookupError", "ModuleNotFoundError", "NameError",
    "NotImplementedError", "StopIteration", "SyntaxError", "TypeError", "UnboundLocalError",
    "UnicodeDecodeError", "ValueError", "ZeroDivisionError",
))  # fmt: skip
_IN_ORDER = re.compile(r"sys\.exit\((0|None|)\)")
_OF_A_GPU = re.compile(r"CUDA|cuda|\bGPU\b|HIP out of memory")
#: A library's file, which may have the name of a GPU's library though it finds no memory of the machine's.
#: From the beginning of a word only: tried from each letter, a word of 3 MB took 15 s.
_LIBRARY = re.compile(r"(?<!\S)\S+\.so\b[.\d]*")
ASKED_MAX = 1024 * GI
#: With more than this left, and more than this share of the limit, the mode "auto" refuses nothing.
FAR_BYTES = 16 * MI
FAR_SHARE = 1 / 8


def _kind(failure: Failure, printed: Sequence[str]) -> str | None:
    if failure.code == "MEMORY_ERROR":
        return "raised"
    is_exit = failure.code == "EXITED" and not _IN_ORDER.search(failure.message)
    if not is_exit and failure.code not in ("ALGORITHM_ERROR", "IMPORT_FAILED"):
        return None
    text = "\n".join((failure.message, failure.details, *printed))
    if _OF_A_GPU.search(_LIBRARY.sub("", text)):
        return None
    if _ALLOCATION.search(text) or _THREAD.search(text):
        return "allocation"
    if not is_exit:
        if _PROCESS.search(text):
            return "process"
        # "CODE: module.Type: text": a library may make any error of a null pointer (SystemError,
        # ImportError).
        name = failure.message.partition(": ")[2].partition(":")[0].partition(" ")[0]
        if name in _OF_CODE:
            return None
    # sys.exit(1) is an answer to refused memory, too: in an `except`, or in a library.
    return "deliberate" if failure.is_deliberate else "unknown"


def may_be_refusal(failure: Failure) -> bool:
    """Whether refused memory may have caused the failure, as far as its text tells."""
    return _kind(failure, ()) is not None


def _is_refusal(kind: str, limits: Limits, held: HeldBack | None, *, asked: int, room: int) -> bool:
    """Whether a failure of this kind was caused by memory that the limit refused, or does not allow.

    `held` proves that the process was held back; the text of the failure only shows its kind. Where reserved
    memory counts (mode "brake"), requests are refused far from the limit, too.
    In the mode "auto", an allocation that failed though nothing was held back was refused by the machine: it
    counts if it was larger than what the limit leaves. What the user's own code has decided without an error
    at hand never counts: it may as well be that nothing was refused.
    """
    if kind == "deliberate":
        return False
    if kind == "unknown":
        return held is not None and held.ago_s <= REFUSED_S
    if held is not None or kind == "process":
        return held is not None
    if limits.mem_mode == "brake":
        return True
    return asked > room if asked else kind == "raised"


def _asked(failure: Failure) -> int:
    """Return the size of the allocation that failed; 0: it is not known."""
    for text in (failure.message, failure.details):
        if (found := _ASKED.search(text)) is not None:
            return int(float(found[1]) * _SIZES[found[2]])
        if (found := _ASKED_BYTES.search(text)) is not None:
            return int(found[1])
    return 0


def explain_exit(exit: Exit, limits: Limits, printed: Sequence[str]) -> Exit:
    """Return the end of a child as one at its memory limit, if a refused request has caused it.

    In the mode "brake" a request that is larger than what is left is refused far from the limit, too. The
    kernel does not tell which one: only what the library printed shows it (OpenBLAS ends the process).
    """
    if limits.memory_bytes is None or not limits.enforced or limits.mem_mode != "brake":
        return exit
    text = "\n".join(printed)
    is_own = exit.cause is Cause.SIGNALLED or (exit.cause is Cause.EXITED and exit.code)
    is_refusal = _ALLOCATION.search(text) or _THREAD.search(text)
    if not is_own or not is_refusal or _OF_A_GPU.search(text):
        return exit
    breach = LimitBreach(exit.peak_bytes, limits.memory_bytes, is_refusal=True)
    return exit._replace(cause=Cause.MEMORY, breach=breach)


def explain_refusal(
    failure: Failure,
    limits: Limits,
    limit_bytes: int | None,
    peak: Callable[[], int],
    *,
    held: HeldBack | None = None,
    printed: Sequence[str] = (),
) -> Failure:
    """Return a failure that refused memory caused, with the limit, the usage and a remedy added.

    Any other failure is returned without. `held`: the process that was held back most recently in this task,
    `printed`: the last lines it printed.
    """
    kind = _kind(failure, printed)
    if limit_bytes is None or kind is None:
        return failure
    peak_bytes, asked = peak(), _asked(failure)
    is_refusal = _is_refusal(kind, limits, held, asked=asked, room=limit_bytes - peak_bytes)
    # A MemoryError of another limit (`ulimit -v`) is an error like any other.
    code = "MEMORY_ERROR" if is_refusal else "ALGORITHM_ERROR" if kind == "raised" else failure.code
    message = failure.message.replace(f"{failure.code}: ", f"{code}: ", 1)
    failure = failure._replace(code=code, message=message)
    if not is_refusal:
        if kind != "deliberate" or held is None or held.ago_s > REFUSED_S:
            return failure
        first, line, rest = failure.message.partition("\n")
        may_be = refused_all_the_same(held, limits, limit_bytes)
        return failure._replace(message=f"{first}; {may_be}{line}{rest}")
    # A request far beyond any machine is an error in the code, whatever the limit.
    option = option_for_memory(peak_bytes + min(asked, ASKED_MAX), limit_bytes, limits.origins)
    by = set_by("memory_bytes", limits.origins)
    hint = f"limit {format_bytes(limit_bytes)} ({by}), used {format_bytes(peak_bytes)}"
    if asked and not _asked(failure._replace(details="")):
        hint += f", asked for {format_bytes(asked)}"
    room = limit_bytes - peak_bytes
    if held is None and limits.mem_mode != "brake" and room > max(FAR_BYTES, FAR_SHARE * limit_bytes):
        if asked:
            hint += f". Try {option} on a machine that has as much: it was this one that refused it"
        else:
            hint += ". Try less: this machine, or the code itself, has refused it, whatever the limit"
    else:
        hint += f". Try {option}"
    if limits.mem_mode == "brake":
        hint += "; if large arrays are reserved and hardly touched, --mem-mode auto"
    first, line, rest = failure.message.partition("\n")
    return failure._replace(message=f"{first}; {hint}{line}{rest}")


def refused_all_the_same(
    held: HeldBack, limits: Limits, limit_bytes: int, *, peak_bytes: int = 0, is_before: bool = False
) -> str:
    """Return what to say of a task that ended well although it was held back at its memory limit.

    `peak_bytes`: its peak, which may have been above the limit, too briefly to end it. `is_before`: it was
    held back before the task began, while the code was loaded.
    """
    used, limit = format_bytes(held.memory_bytes), format_bytes(limit_bytes)
    option = option_for_memory(max(held.memory_bytes, peak_bytes), limit_bytes, limits.origins)
    by = set_by("memory_bytes", limits.origins)
    before = "while the code was loaded, " if is_before else ""
    return (
        f"{before}at {used} of {limit} ({by}), {held.name} (pid {held.pid}) may have been refused memory. "
        f"Try {option}"
    )
