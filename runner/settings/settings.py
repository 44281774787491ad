"""The frozen Settings of one run; from_options.py makes them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...sandbox.shared.limits import Limits

if TYPE_CHECKING:
    from .descriptor import Descriptor

NO_LIMITS = Limits()


@dataclass(frozen=True)
class Settings:
    """What one run of hkrunner was asked to do."""

    entry: str | None
    path: str | None
    cwd: str
    url: str
    encoding: str
    grace_s: float
    connect_timeout_s: float | None
    state_dir: str | None  #: None: no records
    json: bool
    quiet: bool
    verbose: bool
    local: bool
    inputs: tuple[str, ...] = ()
    tasks: str | None = None
    python: str = sys.executable
    child_env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = NO_LIMITS
    limits_from: str = ""  #: where limits come from that no option or variable named; "" otherwise
    descriptor: Descriptor | None = None
    file_given: bool = False  #: the descriptor was named, not found
    gpus: int = 0
    gpus_from: str = "--gpu"
    no_gpu: bool = False
    notes: tuple[str, ...] = ()  #: what the user is told before anything begins
    spare: bool = False
    recycle_after: int | None = None
    end_children: bool = False
    api_errors: str = "raise"
    redirect_logs: bool = False
    events: bool = False  #: every event goes to stdout, a JSON object a line
    output_file: str | None = None  #: what would go to stdout goes there
    full_trace: bool = False
    color: str = "auto"  #: auto, always or never
    metrics_dir: str | None = None  #: what ALGO_METRICS_DIR is for every task; None: one of its own
    env_files: tuple[str, ...] = ()
    watch: bool = False
    #: With --watch: these settings once more, with the files that they come from read again.
    read_again: Callable[[], Settings] | None = None
    in_process: bool = False
    pdb: bool = False
    board: bool = False
    open: bool = False
    board_port: int = 0
    api_port: int | None = None
    keep: int | None = None  #: records of that many tasks, whoever made them; None: all
    keep_own: int | None = None  #: records of that many tasks of this process; None: all
    keep_values_bytes: int | None = None  #: inputs and results up to this size; None: all
    #: The option values of this run, as `runs again` gives them once more; prepare() adds where the code is.
    given: Mapping[str, object] = field(default_factory=dict)
    algorithms: Mapping[str, str] = field(default_factory=dict)  #: name -> file, as written
    pipelines: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str | None:
        """What the descriptor calls the algorithm."""
        return None if self.descriptor is None else self.descriptor.name

    @property
    def local_command(self) -> str:
        """The command that runs this code at once, without a worker."""
        import shlex  # a word for people, once

        words = ["hkrunner"]
        if self.entry is not None:
            words += ["--entry", self.entry]
        if self.path is not None:
            words += ["--path", self.path]
        if self.file_given and self.descriptor is not None:
            words += ["--file", os.path.relpath(self.descriptor.file, self.cwd)]
        return f"{shlex.join(words)} --input '[1, 2, 3]'"


@dataclass(frozen=True)
class WorkerSettings:
    """What `hkrunner worker` was asked to do; `settings` holds for the algorithms it runs for others."""

    settings: Settings
    host: str
    port: int
    once: bool
