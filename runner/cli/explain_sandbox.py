"""The text of `hkrunner explain SANDBOX`: what --sandbox strict is, its levels, what allows more."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ...sandbox.shared.isolation_policy import LEVELS, NOT_PREVENTED
from ..settings.sandbox_options import SANDBOX_OPTIONS
from .doctor_finding import Machine
from .doctor_sandbox import check_sandbox

_WHAT = (
    "--sandbox strict runs code that you do not trust. It reads its own folder, its Python and the system's"
    " programs; it writes to temporary folders of its own, gets variables by a list, has no network, and sees"
    " no process of yours. If this machine cannot provide that, the code is not started."
)
_ASK = (
    "hkrunner why --path PATH ENTRY and hkrunner why --net HOST:PORT ENTRY say yes or no, and by which rule;"
    " hkrunner run --dry-run --sandbox strict lists everything"
)


def rows() -> Iterator[tuple[str, str]]:
    """Return the title and the text of each paragraph; the levels are tried on this machine."""
    yield "what", _WHAT
    here = {one.name: one for one in check_sandbox(Machine(os.environ, "."))}
    for level in LEVELS:
        found = here[f"sandbox {level}"]
        if found.ok:
            yield level, f"Possible here; {found.text}"
            continue
        held = f"Not prevented: {NOT_PREVENTED[level]}" if NOT_PREVENTED[level] else "Nothing is left out"
        yield level, f"{held}. Not possible here: {found.text}; needed: {found.remedy}"
    for option in SANDBOX_OPTIONS:
        text = option.help.removeprefix("With --sandbox strict: ")
        yield "option", f"{option.flag} {option.placeholder}: {text[0].lower()}{text[1:]}"
    yield "ask", _ASK
