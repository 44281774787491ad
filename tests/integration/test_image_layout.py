"""The start script of an algorithm's image, in a folder laid out like one: HKube's folders, environment and
working folder, the real script, the real hkrunner on PATH, a scripted worker."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hkrunner.boards.runs.history import list_tasks
from hkrunner.runner.settings.options import OPTIONS
from hkrunner.sandbox.shared.container_limits import PARENT_BYTES, WARDEN_BYTES, child_memory_bytes
from hkrunner.sandbox.shared.limits import MI, format_bytes
from support.hkube_storage import JOB, Storage
from support.processes import runs
from support.programs import HKRUNNER, Program, run
from support.scripted_client import Client
from support.scripted_worker import ScriptedWorker
from support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "runner" / "image" / "algorithm-entrypoint"

HELPER = "def name():\n    return __name__\n"
MAIN = """
import os, random, signal, sys, threading
import helper
from . import helper as beside

stopped = threading.Event()

def start(args, api):
    what = args["input"][0]
    if what == "tell":
        return {
            "cwd": os.getcwd(),
            "helpers": [helper.name(), beside.name()],
            "random": random.__file__,
            "metrics": os.environ["ALGO_METRICS_DIR"],
        }
    if what == "print":
        print("to stdout", flush=True)
        print("to stderr", file=sys.stderr, flush=True)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "wait":
        signal.alarm(60)
        print("at work", flush=True)
        stopped.wait()
        print("work has ended", flush=True)

def stop(options):
    stopped.set()
"""


class Image:
    """What the image has at /hkube/algorithm-runner, and what the cluster sets."""

    def __init__(self, folder: Path) -> None:
        self.runner = folder / "hkube" / "algorithm-runner"
        self.code = self.runner / "algorithm_unique_folder"
        self.code.mkdir(parents=True)
        (self.code / "__init__.py").touch()
        (self.code / "helper.py").write_text(HELPER)
        (self.code / "main.py").write_text(MAIN)
        self.metrics = folder / "var-metrics"
        self.metrics.mkdir()
        self.temporary = folder / "tmp"
        self.temporary.mkdir()

    def environment(self, worker: ScriptedWorker) -> dict[str, str | None]:
        return {
            "PATH": f"{HKRUNNER.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{self.runner}:{self.code}",
            "TMPDIR": str(self.temporary),
            "ALGO_METRICS_DIR": str(self.metrics),
            "WORKER_ALGORITHM_ENCODING": "bson",
            "WORKER_SOCKET_PORT": str(worker.port),
            "ALGORITHM_TYPE": "green-alg",
            "HKRUNNER_STATE_DIR": None,
            "STORAGE_PROTOCOL": "v1",
        }

    @contextlib.contextmanager
    def started(
        self, *args: str, env: Mapping[str, str | None] | None = None
    ) -> Iterator[tuple[Client, Program]]:
        with ScriptedWorker() as worker:
            whole = {**self.environment(worker), **(env or {})}
            with Program([SCRIPT, *args], cwd=self.runner, env=whole) as program:
                yield worker.accept(), program


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def test_code_is_found_and_imported_as_in_hkubes_image(image: Image) -> None:
    with image.started() as (client, _):
        assert client.encoding == "bson"
        told = client.run(["tell"])["data"]
        assert told["cwd"] == str(image.code)
        assert told["helpers"] == ["helper", "algorithm_unique_folder.helper"]
        assert told["metrics"] == str(image.metrics)


def test_the_image_asks_for_storage_v3_as_hkubes_does(image: Image, tmp_path: Path) -> None:
    storage = Storage(tmp_path / "storage")
    with image.started(env={**storage.variables, "STORAGE_PROTOCOL": None}) as (client, _):
        assert client.query["storage"] == "v3"
        client.initialize(["$$aaaaaaaa"], storage={"aaaaaaaa": storage.put("a", "tell")}, jobId=JOB)
        client.expect("initialized")
        client.start()
        path = client.expect("storing")["data"]["storageInfo"]["path"]
        client.expect("done")
        assert storage.read(Path(path).name)["cwd"] == str(image.code)


def test_records_are_below_the_temporary_folder_and_none_with_the_code(image: Image) -> None:
    with image.started() as (client, _):
        client.run(["print"], taskId="task1")
        assert [one.name for one in list_tasks(image.temporary / "hkrunner")] == ["task1"]
        assert not (image.runner / ".hkrunner").exists() and not (image.code / ".hkrunner").exists()


def test_the_image_chooses_the_place_of_records_and_the_entry(image: Image, tmp_path: Path) -> None:
    (image.code / "src").mkdir()
    (image.code / "src" / "other.py").write_text("def start(args):\n    return 'other'\n")
    env = {"HKRUNNER_STATE_DIR": str(tmp_path / "kept"), "ALGORITHM_ENTRY_POINT": "src/other.py"}
    with image.started(env=env) as (client, _):
        assert client.run([], taskId="task1")["data"] == "other"
        assert [one.name for one in list_tasks(tmp_path / "kept")] == ["task1"]


def test_stdout_and_stderr_stay_what_they_are(image: Image) -> None:
    with image.started() as (client, program):
        client.run(["print"])
        program.wait_for_line("to stdout", stream="stdout")
        program.wait_for_line("to stderr")
        assert "to stderr" not in program.stdout and "to stdout" not in program.stderr


def test_a_module_of_the_algorithm_does_not_replace_one_of_hkrunner(image: Image) -> None:
    """PYTHONPATH names the algorithm's folder in HKube's images."""
    (image.code / "random.py").write_text("def randrange(*args): raise SystemExit('mine')\n")
    (image.code / "click.py").write_text("raise SystemExit('this is not the click you want')\n")
    with image.started(env={"WORKER_ALGORITHM_ENCODING": "json"}) as (client, _):
        assert client.run(["tell"])["data"]["random"] == str(image.code / "random.py")


def test_arguments_of_the_script_are_hkrunners(image: Image) -> None:
    with image.started("--no-state", "--mem", "512Mi") as (client, program):
        client.run(["print"])
        program.wait_for_line("512 MiB")
        assert not (image.temporary / "hkrunner").exists()


def test_a_crash_is_an_answer_and_the_container_goes_on(image: Image) -> None:
    with image.started() as (client, program):
        answer = client.run(["crash"])
        assert answer["error"]["message"].startswith("KILLED_BY_SIGNAL: ")
        assert client.run(["tell"])["command"] == "done"
        assert program.status is None


@pytest.mark.parametrize("status", [0, 7])
def test_the_exit_code_that_the_worker_sends_is_the_containers(image: Image, status: int) -> None:
    with image.started() as (client, program):
        client.run(["print"])
        client.exit({"command": "exit", "data": {"exitCode": status}})
        assert program.wait() == status


def test_sigterm_ends_in_order(image: Image) -> None:
    with image.started() as (client, program):
        client.initialize(["wait"])
        client.expect("initialized")
        client.start()
        program.wait_for_line("at work", stream="stdout")
        family = program.family()
        program.send_signal(signal.SIGTERM)
        assert program.wait() == 143
        assert "work has ended" in program.stdout
        wait_until(lambda: not any(map(runs, family)), what="the end of all it had started")


def test_no_shell_stays_between_the_container_and_hkrunner(image: Image) -> None:
    with image.started() as (client, program):
        client.run(["print"])
        words = Path(f"/proc/{program.pid}/cmdline").read_bytes().split(b"\0")
        assert str(HKRUNNER).encode() in words


def test_an_entry_that_is_not_there_is_reported_at_the_start(image: Image) -> None:
    with ScriptedWorker() as worker:
        env = {**image.environment(worker), "ALGORITHM_ENTRY_POINT": "nope.py"}
        ended = run([SCRIPT], cwd=image.runner, env=env)
    assert ended.status == 3
    assert "ENTRY_NOT_FOUND" in ended.stderr and "helper.py, main.py" in ended.stderr


# ---- the Dockerfile, as far as it can be held without an engine


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def test_the_image_copies_what_the_distribution_is_built_from() -> None:
    lists = [line.split()[1:-1] for line in dockerfile().splitlines() if re.match(r"COPY (?!--from)", line)]
    copied = {name for names in lists for name in names}
    library = (ROOT / "scripts" / "lib.sh").read_text(encoding="utf-8")
    sources = re.search(r"^sources='(.*)'$", library, re.M)
    assert sources is not None
    assert copied == {*sources[1].split(), "runner/image/algorithm-entrypoint"}
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.M)
    assert set(allowed) == set(sources[1].split())


def test_the_image_starts_the_script_in_hkubes_folder_as_an_ordinary_user() -> None:
    last = dockerfile().rpartition("\nFROM ")[2]
    words = dict(re.findall(r"^(USER|WORKDIR|ENTRYPOINT) (.+)$", last, re.M))
    assert words["WORKDIR"] == "/hkube/algorithm-runner"
    assert words["USER"] not in ("root", "0") and f" {words['USER']} " in last.replace("\n", " ")
    assert json.loads(words["ENTRYPOINT"]) == ["/usr/local/bin/algorithm-entrypoint"]
    assert os.access(SCRIPT, os.X_OK)


def test_the_page_for_operators_says_what_is_true() -> None:
    page = (ROOT / "docs" / "how-to" / "cluster.md").read_text(encoding="utf-8")
    for container in (256 * MI, 512 * MI, 1024 * MI, 4096 * MI):
        assert f"| {format_bytes(container)} | {format_bytes(child_memory_bytes(container))} |" in page
    assert f"| {PARENT_BYTES // MI} MiB |" in page and f"| {WARDEN_BYTES // MI} MiB |" in page
    variables = {name for option in OPTIONS for name in option.env}
    named = set(re.findall(r"HKRUNNER_[A-Z_]*[A-Z]", page))
    assert named <= variables, named - variables
    linked = re.findall(r"\]\((?!http)([^)#]+)", page)
    assert linked and all((ROOT / "docs" / "how-to" / target).exists() for target in linked)
