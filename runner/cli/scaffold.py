"""The files of `hkrunner init`: an algorithm, its descriptor in hkubectl's format, and .hkubeignore."""

from __future__ import annotations

import os

from ..errors import SettingsError
from ..settings.algorithm_name import algorithm_name

ENTRY = "my_alg.py"

_CODE = '''"""An HKube algorithm: start(args, api) gets a task and returns its result.

Run it here:        hkrunner -i '[1, 2, 3]'
Change its limits:  they are in algorithm.yml
Send it to HKube:   hkrunner apply --on CLUSTER
"""


def start(args, api):
    """Return the sum of the squares of the input's numbers."""
    # args["input"] is the task's input, always a list: -i '[1, 2, 3]' gives [1, 2, 3].
    numbers = args["input"]
    total = 0
    for done, number in enumerate(numbers):
        # Check now and then whether the task is being stopped, to end early and cleanly.
        if getattr(api, "stopping", False):
            break
        total += number * number
        if hasattr(api, "progress"):
            api.progress(100 * (done + 1) / len(numbers), details="squaring")
    # The result can be any JSON value.
    return total


# Optional functions:
#
# def init(args):      called before start() of each task
# def stop(options):   called when the task is stopped, while start() runs
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

#: Files below code.path that hkubectl does not send to the cluster, in gitignore's syntax.
_IGNORED = """\
.hkrunner/
__pycache__/
*.pyc
.git/
.venv/
venv/
"""


def make(folder: str) -> list[str]:
    """Create the folder and its files; return their paths. Existing files are not touched.

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
        raise SettingsError(f"{folder} already has {', '.join(there)}; nothing was written")
    try:
        os.makedirs(folder, exist_ok=True)
        for one, text in files.items():
            # "x" does not overwrite a file that was created meanwhile either.
            with open(os.path.join(folder, one), "x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise SettingsError(
            f"{error.filename or folder} cannot be created: {error.strerror}; name another folder"
        ) from None
    return [os.path.join(folder, one) for one in files]
