"""The settings of one run, immutable, in groups by subject; from_options.py makes them.

Named tuples, since each frozen dataclass takes half a millisecond of the start to be defined (measured).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ...sandbox.shared.limits import Limits
from .cluster_options import ClusterSettings
from .sandbox_options import Sandbox

if TYPE_CHECKING:
    from .descriptor_schema import Descriptor
    from .storage_settings import StorageSettings

NO_LIMITS = Limits()


class CodeSource(NamedTuple):
    """Which code runs, with which Python, and with which variables."""

    cwd: str  #: working folder of the command: relative paths start here
    entry: str | None = None
    command: str | None = None  #: of a program that is started instead, as written
    argv: tuple[str, ...] = ()  #: what is executed then, or for the descriptor's environment; (): Python code
    takes_any_encoding: bool = False  #: the program is HKube's wrapper: its messages are as we tell it
    path: str | None = None
    descriptor: Descriptor | None = None
    is_descriptor_named: bool = False  #: by --file; False: it was found
    python: str = sys.executable
    install: bool = False  #: run in a virtual environment that is made of `base_python`
    base_python: str | None = None  #: where `python` is that of such an environment: what was asked for
    python_paths: tuple[str, ...] = ()  #: where another Python and its packages lie
    variables: Mapping[str, str] = {}  #: added to the algorithm's environment
    env_files: tuple[str, ...] = ()  #: absolute paths of --env-file
    temporary_folders: tuple[str, ...] = ()  #: made for this run, and removed at its end


class Gpus(NamedTuple):
    """How many GPUs the algorithm gets to see."""

    number: int = 0
    set_by: str = "--gpu"  #: source of the number, for messages
    none: bool = False  #: --no-gpu: hide all, whatever `number` says


class Serving(NamedTuple):
    """How tasks are served: the worker's connection, and the processes of the algorithm."""

    url: str
    encoding: str = "json"  #: json, bson or msgpack; or socket.io
    transport: str = "ws"  #: ws or socketio
    connect_timeout_s: float | None = None  #: None: wait forever
    grace_s: float = 5.0
    spare: bool = False
    recycle_after: int | None = None
    end_children: bool = False
    api_errors: str = "raise"  #: raise or return
    redirect_logs: bool = False
    storage: StorageSettings | None = None  #: None: storage v1, the worker moves inputs and results
    #: Of a node of a local stream pipeline: the port at which the next nodes fetch messages, on the loopback
    #: address; 0 if there are none. None: HKube's variables name the port.
    stream_port: int | None = None


class LocalRunSettings(NamedTuple):
    """What a run without HKube's worker does. `inputs` and `tasks` as written."""

    is_local: bool = False  #: False: serve the worker
    inputs: tuple[str, ...] = ()
    tasks: str | None = None
    watch: bool = False
    #: With --watch: the options that the settings were made of, to make them again when their files change.
    option_values: Mapping[str, Any] = {}
    in_process: bool = False
    pdb: bool = False
    parallel: int | None = None  #: most processes at once; None: --parallel was not given, which means one
    unordered: bool = False  #: print results as tasks end
    algorithms: Mapping[str, str] = {}  #: name -> file, as written
    pipelines: Mapping[str, str] = {}  #: name -> file, as written
    stream_pipeline: str | None = None  #: file of the stream pipeline that is run, as written
    data_sources: Mapping[str, str] = {}  #: id -> folder, as written

    def processes(self, inputs: int) -> int:
        """Return the number of processes for this many inputs."""
        return max(1, min(self.parallel or 1, inputs))


class Records(NamedTuple):
    """What is kept of tasks, and where."""

    state_dir: str | None  #: None: no records
    metrics_dir: str | None = None  #: --metrics-dir; None: each task's own folder
    keep: int | None = None  #: number of latest tasks that are kept; None: all
    keep_own: int | None = None  #: number of latest tasks of this process that are kept; None: all
    keep_values_bytes: int | None = None  #: largest input or result that is kept; None: all
    #: Option values that repeat a task, for `runs again`; prepare() adds where the code is.
    options: Mapping[str, object] = {}


class Console(NamedTuple):
    """What is printed."""

    json: bool = False  #: one object per task
    events: bool = False  #: every event, as one object per line
    output_file: str | None = None  #: replaces stdout for results
    quiet: bool = False
    verbose: bool = False
    full_trace: bool = False
    color: str = "auto"  #: auto, always or never
    notes: tuple[str, ...] = ()  #: shown before the run starts


class Boards(NamedTuple):
    """The board of the run, and the routes for boards."""

    board: bool = False
    open: bool = False  #: in the browser
    board_port: int = 0  #: 0: any free port
    api_port: int | None = None  #: None: no routes


class Settings(NamedTuple):
    """What one run of hkrunner was asked to do."""

    code: CodeSource
    serving: Serving
    records: Records
    limits: Limits = NO_LIMITS
    limits_from: str = ""  #: source of limits that neither an option nor a variable set; "" if none
    gpus: Gpus = Gpus()
    sandbox: Sandbox | None = None  #: None: the code may do what its user may do
    local_run: LocalRunSettings = LocalRunSettings()
    console: Console = Console()
    boards: Boards = Boards()
    cluster: ClusterSettings = ClusterSettings()

    @property
    def task_encoding(self) -> str:
        """The encoding of the messages that the algorithm's process gets and gives.

        Under storage v3 that of the storage, so that no value is converted, and bytes remain bytes; but a
        program of --command speaks the encoding that it was written for.
        """
        serving, code = self.serving, self.code
        is_as_written = bool(code.argv) and not code.takes_any_encoding
        return serving.encoding if serving.storage is None or is_as_written else serving.storage.encoding

    @property
    def name(self) -> str | None:
        """The algorithm's name in the descriptor."""
        return None if self.code.descriptor is None else self.code.descriptor.name

    @property
    def local_command(self) -> str:
        """The command that runs this code at once, without a worker."""
        import shlex  # late: it is needed once, for a message

        code = self.code
        words = ["hkrunner"]
        if code.command is not None:
            words += ["--command", code.command]
        elif code.entry is not None:
            words += ["--entry", code.entry]
        if code.path is not None:
            words += ["--path", code.path]
        if code.is_descriptor_named and code.descriptor is not None:
            words += ["--file", os.path.relpath(code.descriptor.file, code.cwd)]
        return f"{shlex.join(words)} --input '[1, 2, 3]'"


class WorkerSettings(NamedTuple):
    """What `hkrunner worker` was asked to do; `settings` are those of the algorithms that it runs itself."""

    settings: Settings
    host: str
    port: int
    once: bool
    storage: StorageSettings | None = None  #: for clients with storage v3; None: they are refused
