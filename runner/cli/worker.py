"""`hkrunner worker`: stand in for HKube's worker, to try a wrapper of any language."""

from __future__ import annotations

import sys
from typing import Any

from ..settings.from_options import worker_settings_of
from ..settings.worker_options import WORKER_OPTIONS
from .click_options import Sections

EPILOG = """\b
Exit status:
  0    every task has a result
  1    a task has failed, or its wrapper was lost
  2    bad usage, or the port is taken
  3    there is no such algorithm (--algorithm)
  130, 143  ended by Ctrl-C or SIGTERM, in order
"""


def _worker(**values: Any) -> None:
    asked = worker_settings_of(values)
    # Late, so that --help does not pay for it.
    from ..app.run import run_worker

    sys.exit(run_worker(asked))


command = Sections(
    "worker",
    callback=_worker,
    options=WORKER_OPTIONS,
    help="Stand in for HKube's worker: hand inputs to any wrapper that connects, print the results.\n\n"
    "It listens as the worker does, on port 3000, and speaks json, bson and msgpack as the wrapper chooses, "
    "storage v1. Where HKube's worker would die of what a wrapper does, it says so and goes on. It ends when "
    "every input is answered; without inputs, when it is stopped.",
    epilog=EPILOG,
)
