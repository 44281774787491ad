"""A folder to begin with: an algorithm, its descriptor as hkubectl reads it, and what it leaves out."""

from __future__ import annotations

import os
import re

from ..errors import SettingsError

#: HKube's rule for the names of algorithms, as runner/settings/descriptor_schema.py checks it.
_NAME = re.compile(r"[a-z0-9][-a-z0-9.]*[a-z0-9]")
ENTRY = "my_alg.py"

_CODE = '''"""An HKube algorithm: start(args, api) gets a task and returns its result.

Try it here:       hkrunner -i '[1, 2, 3]'
With limits:       they are in algorithm.yml
In the cluster:    hkubectl algorithm apply -f algorithm.yml
"""


def start(args, api):
    """Return the sum of the squares of the input's numbers."""
    # args["input"] is the task's input, always a list: -i '[1, 2, 3]' gives [1, 2, 3].
    numbers = args["input"]
    total = 0
    for done, number in enumerate(numbers):
        # Look now and then whether the task is to be stopped, and end early and cleanly.
        if getattr(api, "stopping", False):
            break
        total += number * number
        if hasattr(api, "progress"):
            api.progress(100 * (done + 1) / len(numbers), details="squaring")
    # The result can be whatever JSON can say.
    return total


# These need not be there:
#
# def init(args):      called before start() of each task
# def stop(options):   called when the task is to be stopped, while start() runs
# def exit(options):   called before the process ends
'''

_DESCRIPTOR = """\
name: {name}
env: python
resources:
  cpu: 0.5
  mem: 512Mi
code:
  path: .
  entryPoint: {entry}
# Variables of the algorithm:
# algorithmEnv:
#   MODEL: small
"""

#: Below code.path, not sent to the cluster: gitignore's syntax.
_IGNORED = """\
.hkrunner/
__pycache__/
*.pyc
.git/
.venv/
venv/
"""


def algorithm_name(folder: str) -> str:
    """Return the name an algorithm in this folder gets; raises SettingsError where none can be made."""
    name = re.sub(r"[^-a-z0-9.]+", "-", os.path.basename(folder).lower()).strip("-.")
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"no algorithm can be named after {os.path.basename(folder)!r}: HKube wants at least two of a-z, "
            "0-9, dash and dot"
        )
    return name


def make(folder: str) -> list[str]:
    """Make the folder and its files; return their paths. Nothing that is there is touched.

    Raises SettingsError before anything is written.
    """
    name = algorithm_name(folder)
    files = {
        ENTRY: _CODE,
        "algorithm.yml": _DESCRIPTOR.format(name=name, entry=ENTRY),
        ".hkubeignore": _IGNORED,
    }
    there = [one for one in files if os.path.lexists(os.path.join(folder, one))]
    if there:
        raise SettingsError(f"{folder} holds {', '.join(there)} already; nothing was written")
    try:
        os.makedirs(folder, exist_ok=True)
        for one, text in files.items():
            # "x": what somebody else has made meanwhile is not overwritten either.
            with open(os.path.join(folder, one), "x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise SettingsError(f"{error.filename or folder} cannot be made: {error.strerror}") from None
    return [os.path.join(folder, one) for one in files]
