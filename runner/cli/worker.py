"""`hkrunner worker`: stand in for HKube's worker, to test without a cluster."""

from __future__ import annotations

import os
import sys
from typing import Any

from ..settings.from_options import worker_settings_of
from ..settings.worker_options import WORKER_OPTIONS
from .click_options import Sections

EPILOG = """\b
Exit status:
  0    every task has a result
  1    a task failed, or the wrapper disconnected
  2    bad usage, or the port is in use
  3    an algorithm of --algorithm was not found
  130, 143  stopped by Ctrl-C or SIGTERM
"""


def _worker(**values: Any) -> None:
    asked = worker_settings_of(values, os.environ)
    # Imported here to keep --help fast.
    from ..app.run import run_worker

    sys.exit(run_worker(asked))


command = Sections(
    "worker",
    callback=_worker,
    options=WORKER_OPTIONS,
    help="Stand in for HKube's worker: send inputs to the wrapper that connects, and print the results. A "
    "wrapper is the program that runs the algorithm: hkrunner without --input, or one of HKube's.\n\n"
    "It listens on port 3000 as the worker does, in the encoding that the wrapper chooses (json, bson, "
    "msgpack), with storage v1, or v3 in a folder. Where a mistake of the wrapper would crash HKube's "
    "worker, it reports that and continues. It ends when every input is answered; without inputs, when it is "
    "stopped.\n\n"
    "The options for the algorithm, its limits and its sandbox are those of each --algorithm.",
    epilog=EPILOG,
)
