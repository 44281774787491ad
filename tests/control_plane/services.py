"""HKube's own services on this machine: redis, etcd, a stand-in for MongoDB, and those of a checkout.

    redis  etcd  mongo_server.py
      |     |        |
    api-server   pipeline-driver-queue   pipeline-driver   algorithm-queue   worker (one for each algorithm)
                                                                                |
                                                                 hkrunner, or a wrapper of HKube's

What needs Kubernetes is left out: the algorithm-operator (add_algorithm.js does its part), the task-executor.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from task_watch import TaskWatch

HERE = Path(__file__).parent
#: The services that run, which are folders below core/ of the checkout.
NODE_SERVICES = ("api-server", "pipeline-driver-queue", "pipeline-driver", "algorithm-queue", "worker")
QUEUE = "interop"
#: Seconds for a service to start, on a busy machine.
START_S = 60.0
#: Seconds for a service to end by itself.
END_S = 5.0


class Trouble(Exception):
    """Something does not work; the text says what, for a person."""


def find_programs() -> None:
    """Raise Trouble for a program that is not installed."""
    wanted = {"node": "nodejs", "npm": "npm", "redis-server": "redis-server", "etcd": "etcd-server"}
    absent = [f"{name} (Debian: {package})" for name, package in wanted.items() if shutil.which(name) is None]
    if absent:
        raise Trouble(f"not installed: {', '.join(absent)}")


def install(checkout: Path) -> None:
    """Install the packages of each service into the checkout, where they are not there. Raises Trouble."""
    for name in NODE_SERVICES:
        folder = checkout / "core" / name
        if not (folder / "package-lock.json").is_file():
            raise Trouble(f"{checkout} is no checkout of kube-HPC/hkube: it has no core/{name}")
        if (folder / "node_modules").is_dir():
            continue
        say(f"installing the packages of core/{name}")
        words = ["npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        if subprocess.run(words, cwd=folder, check=False).returncode:
            shutil.rmtree(folder / "node_modules", ignore_errors=True)
            raise Trouble(f"npm ci has failed in {folder}")


def say(text: str) -> None:
    """Print a line about what is done."""
    print(text, file=sys.stderr, flush=True)


def free_port() -> int:
    """Return a port of the loopback address that nobody uses now, nor the next one.

    It is below those that the kernel gives to outgoing connections: the services make many until all run.
    """
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), _listener(port), _listener(port + 1):
            return port


def _listener(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


@dataclass(frozen=True)
class WorkerPorts:
    """The ports of a worker and of its algorithm."""

    link: int = field(default_factory=free_port)
    data: int = field(default_factory=free_port)  #: the next one is for pings
    stream: int = field(default_factory=free_port)

    def variables(self) -> dict[str, str]:
        """Return HKube's variables for them, which both have."""
        return {
            "WORKER_SOCKET_HOST": "127.0.0.1",
            "WORKER_SOCKET_PORT": str(self.link),
            "POD_IP": "127.0.0.1",
            "DISCOVERY_PORT": str(self.data),
            "STREAMING_DISCOVERY_PORT": str(self.stream),
        }


class ControlPlane:
    """The services, each a process group with a log of its own in the folder; close() ends them."""

    def __init__(self, checkout: Path, folder: Path, encoding: str = "msgpack") -> None:
        """Nothing is started. `encoding`: of the storage, and of what algorithms send to each other."""
        self._encoding = encoding
        self._core = checkout / "core"
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        names = ("redis", "etcd", "etcd peers", "mongo", "api", "queue")
        self._ports = {name: free_port() for name in names}
        self.url = f"http://127.0.0.1:{self._ports['api']}"
        self._workers: defaultdict[str, WorkerPorts] = defaultdict(WorkerPorts)
        self.metrics = folder / "metrics"
        self.storage = folder / "storage"

    def __enter__(self) -> ControlPlane:
        try:
            self._start_stores()
            self.start_api()
            self._start_node("pipeline-driver-queue", {})
            self._start_node("pipeline-driver", {})
            self._start_node("algorithm-queue", {"QUEUE_ID": QUEUE})
            # It hears of no algorithm before that, and ends if it has none for 30 s.
            self._wait_for("algorithm-queue", lambda: b"is up and running" in self._log("algorithm-queue"))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def watch_tasks(self) -> TaskWatch:
        """Follow the tasks in etcd from now on."""
        return TaskWatch(self._ports["etcd"])

    def start_api(self) -> None:
        """Start the api-server, and return when it answers. Raises Trouble."""
        self._start_node("api-server", {"API_SERVER_REST_PORT": str(self._ports["api"])})
        self._wait_for("api-server", lambda: _answers(f"{self.url}/api/v1/storage/info"))

    def stop(self, name: str) -> None:
        """End a service if it runs, at once if it does not end by itself, and what it has left."""
        process = self._running.pop(name, None)
        if process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)

    def stop_api(self) -> None:
        """End the api-server."""
        self.stop("api-server")

    def run_worker(self, algorithm: str, name: str, *, is_developed: bool = True) -> None:
        """Start the worker; if it `is_developed`, it waits for an algorithm that has gone. Raises Trouble."""
        self.metrics.mkdir(exist_ok=True)
        ports = self._workers[name]
        more = {
            "ALGORITHM_TYPE": algorithm,
            "DEV_MODE": str(is_developed).lower(),
            "API_SERVER_SERVICE_HOST": "127.0.0.1",
            "API_SERVER_SERVICE_PORT": str(self._ports["api"]),
            "ALGO_METRICS_DIR": str(self.metrics),
            # A stream begins within seconds.
            "SERVICE_DISCOVERY_INTERVAL": "1000",
            "AUTO_SCALER_SCALE_INTERVAL": "1000",
            **ports.variables(),
        }
        folder = self._core / "worker"
        self._start(name, ["node", str(HERE / "worker.js"), str(folder)], self._variables(more), folder)
        self._wait_for(name, lambda: _listens(ports.link))

    def add_algorithm(self, algorithm: str) -> None:
        """Have the queue serve an algorithm, before it ends for want of one. Raises Trouble."""
        queue = str(self._core / "algorithm-queue")
        words = ["node", str(HERE / "add_algorithm.js"), queue, str(self._ports["etcd"]), QUEUE, algorithm]
        added = subprocess.run(words, capture_output=True, text=True, timeout=START_S, check=False)
        if added.returncode:
            raise Trouble(f"the queue was not given {algorithm}: {added.stderr.strip()}")

    def start_program(
        self, name: str, words: Sequence[str], cwd: Path, worker: str, variables: Mapping[str, str]
    ) -> None:
        """Start hkrunner or another program as the algorithm of a worker."""
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("HKRUNNER_", "PYTHON"))
        }
        ports = self._workers[worker].variables()
        metrics = {"ALGO_METRICS_DIR": str(self.metrics)}
        self._start(name, words, {**inherited, **self._storage(), **metrics, **ports, **variables}, cwd)

    def is_running(self, name: str) -> bool:
        """Whether this process has not ended."""
        return self._running[name].poll() is None

    def signal(self, name: str, sign: int) -> None:
        """Send a signal to one process, and to none that it started."""
        self._running[name].send_signal(sign)

    def wait_for_end(self, name: str) -> None:
        """Return when the process has ended, at the latest after START_S."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running[name].wait(START_S)

    def log_of(self, name: str) -> Path:
        """Return the file with what a service has printed."""
        return self._folder / f"{name}.log"

    def _log(self, name: str) -> bytes:
        return self.log_of(name).read_bytes()

    def close(self) -> None:
        """End all services, the last one first."""
        for name in reversed(list(self._running)):
            self.stop(name)

    # ---- steps

    def _start_stores(self) -> None:
        redis, etcd, peers = (str(self._ports[name]) for name in ("redis", "etcd", "etcd peers"))
        own = {**os.environ}
        self._start("redis", ["redis-server", "--port", redis, "--bind", "127.0.0.1", "--save", ""], own)
        client, peer = f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{peers}"
        words = ["etcd", "--data-dir", "etcd-data", "--initial-cluster", f"default={peer}"]
        for option, value in (("client", client), ("peer", peer)):
            words += [f"--listen-{option}-urls", value]
        words += ["--advertise-client-urls", client, "--initial-advertise-peer-urls", peer]
        self._start("etcd", words, own)
        mongo = str(self._ports["mongo"])
        self._start("mongo", [sys.executable, "-I", str(HERE / "mongo_server.py"), mongo], own)
        for name in ("redis", "etcd", "mongo"):
            self._wait_for(name, partial(_listens, self._ports[name]))

    def _start_node(self, name: str, more: Mapping[str, str]) -> None:
        folder = self._core / name
        self._start(name, ["node", "app.js"], self._variables(more), folder)

    def _variables(self, more: Mapping[str, str]) -> dict[str, str]:
        here = "127.0.0.1"
        return {
            **os.environ,
            "NODE_ENV": "production",
            "REDIS_SERVICE_HOST": here,
            "REDIS_SERVICE_PORT": str(self._ports["redis"]),
            "ETCD_CLIENT_SERVICE_HOST": here,
            "ETCD_CLIENT_SERVICE_PORT": str(self._ports["etcd"]),
            "MONGODB_SERVICE_HOST": here,
            "MONGODB_SERVICE_PORT": str(self._ports["mongo"]),
            **self._storage(),
            "PIPELINE_DRIVER_QUEUE_SERVICE_PORT": str(self._ports["queue"]),
            "REST_PORT": str(self._ports["queue"]),
            "HEALTHCHECK_PORT": str(free_port()),
            "METRICS_PORT": str(free_port()),
            "KC_URL": "http://127.0.0.1:9",  # nobody is there: HKube asks it also when it is not used
            **more,
        }

    def _storage(self) -> dict[str, str]:
        return {
            "DEFAULT_STORAGE": "fs",
            "BASE_FS_ADAPTER_DIRECTORY": str(self.storage),
            "STORAGE_ENCODING": self._encoding,
            "DISCOVERY_ENCODING": self._encoding,
        }

    def _start(
        self, name: str, words: Sequence[str], variables: Mapping[str, str], cwd: Path | None = None
    ) -> None:
        with open(self._folder / f"{name}.log", "ab") as log:
            self._running[name] = subprocess.Popen(
                words,
                cwd=cwd or self._folder,
                env=dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_for(self, name: str, is_ready: Callable[[], bool]) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            status = self._running[name].poll()
            if status is not None:
                raise Trouble(f"{name} has ended with status {status}: see {self._folder / name}.log")
            if is_ready():
                return
            time.sleep(0.1)
        raise Trouble(f"{name} was not ready within {START_S:g} s: see {self._folder / name}.log")


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


Step = Callable[[], None]


def take(
    steps: Callable[[ControlPlane, Path], Iterable[Step]],
    checkout: Path,
    *,
    prefix: str,
    name: str,
    encoding: str = "msgpack",
) -> int:
    """Start the services, take the steps, and return the exit status; the folder stays if one fails.

    `steps`: gets the services, and a folder of this name for the algorithm. `encoding`: see ControlPlane.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        find_programs()
        install(checkout)
        with ControlPlane(checkout, folder, encoding) as plane:
            work = folder / name
            work.mkdir()
            for step in steps(plane, work):
                began = time.monotonic()
                step()
                say(f"✔ {step.__doc__} ({time.monotonic() - began:.1f} s)")
    except Trouble as trouble:
        say(f"✘ {trouble}\nthe logs are in {folder}")
        return 1
    except KeyboardInterrupt:
        return 130
    shutil.rmtree(folder, ignore_errors=True)
    return 0
