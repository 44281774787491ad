"""What code that nobody trusts can do with --sandbox strict: at each level, as root and as another user."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hkrunner.sandbox.isolation import call_numbers
from hkrunner.sandbox.linux import landlock
from hkrunner.sandbox.shared.isolation_policy import LEVELS
from support.local import ALGORITHMS
from support.processes import runs
from support.programs import HKRUNNER, Program, run
from support.sandboxes import BEST, POSSIBLE, check_nothing_is_left, needs_sandbox, python_for_all
from support.users import bounded_command, give_to_bounded
from support.waiting import wait_until
from support.weaker_machines import machine_for

MACHINE = os.uname().machine
#: Whether Landlock holds signals and abstract sockets.
HAS_SCOPES = landlock.abi() >= landlock.SCOPES_SINCE_ABI
#: What refuses, in the words of the kernel.
REFUSED = {"EACCES", "EPERM", "EROFS", "ENOENT", "ESRCH", "ENXIO", "ENOTDIR", "EXDEV"}
#: Level -> attempts that it does not refuse. They change nothing outside, but for those that only look.
NOT_HELD: dict[str, set[str]] = {
    "full": set(),
    "ns": {"ask for the runner"},
    "landlock": {"see a file elsewhere", "connect to a socket with a path", "ask for the runner"},
}
NOT_HELD["landlock"].add("read where the kernel has its memory")  # root
#: What docs/explanation/not-promised.md says that no level prevents.
NOT_PREVENTED_AT_ANY = (
    "lock a file that it can read",
    "make a program for its group in its metrics",
    "lock its metrics folder",
)
OTHER_END = "ask by a descriptor for the other end of its channel"
if not HAS_SCOPES:
    NOT_HELD["landlock"].update(("connect to an abstract socket", OTHER_END))
    NOT_HELD["ns"].add(OTHER_END)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with code of its own, and beside it a file that no sandbox shows; open to every user."""
    with tempfile.TemporaryDirectory(prefix="strict-", dir="/tmp") as made:
        place = Path(made)
        place.chmod(0o755)
        (place / "code").mkdir()
        for program in ALGORITHMS.glob("strict_*.py"):
            shutil.copy(program, place / "code")
        (place / "elsewhere").mkdir()
        (place / "elsewhere/secret").write_text("secret")
        yield place


@pytest.fixture
def target(folder: Path) -> Iterator[dict[str, Any]]:
    """What there is to attack: a process, and listening sockets of three kinds."""
    path = tempfile.mktemp(prefix="attacked-", dir="/tmp")
    abstract = f"attacked-{os.getpid()}-{os.urandom(4).hex()}"
    with (
        socket.socket() as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as hidden,
    ):
        for one, address in ((tcp, ("127.0.0.1", 0)), (unix, path), (hidden, f"\0{abstract}")):
            one.bind(address)
            one.listen(8)
        victim = subprocess.Popen(["/bin/sleep", "60"])
        try:
            yield {
                "secret": str(folder / "elsewhere/secret"),
                "state": str(folder / "code/.hkrunner"),
                "runner": victim.pid,
                # Where nothing holds signals, to try it would end the process; the line at the start says so.
                "holds signals": HAS_SCOPES,
                "port": tcp.getsockname()[1],
                "socket": path,
                "abstract": abstract,
                "calls": {**call_numbers.REFUSED[MACHINE], **call_numbers.MISSING[MACHINE]},
                "clone": call_numbers.WITH_ARGUMENTS[MACHINE]["clone"],
                "ioctl": call_numbers.WITH_ARGUMENTS[MACHINE]["ioctl"],
            }
            assert victim.poll() is None, "the attacked process was ended"
            assert os.getpriority(os.PRIO_PROCESS, victim.pid) == os.getpriority(os.PRIO_PROCESS, 0)
        finally:
            victim.kill()
            victim.wait()
            os.unlink(path)


def attack(command: list[str | Path], folder: Path, target: dict[str, Any], *kinds: str) -> dict[str, Any]:
    """Run the attacks of these kinds; return what came of each, by name."""
    inputs = [word for kind in kinds for word in ("-i", json.dumps([kind, target]))]
    # So the records lie in the folder of the code, all of which can be read but for them.
    ended = run([*command, *inputs], cwd=folder / "code", env={"TMPDIR": "/tmp"})
    assert ended.status == 0, ended
    assert os.path.exists(f"{target['state']}/tasks/t1/task.json")
    found: dict[str, Any] = {}
    for line in ended.stdout.splitlines():
        answer = json.loads(line)
        assert isinstance(answer["output"], dict), answer
        found.update(answer["output"])
        assert answer["protection"]["sandbox"] in NOT_HELD
    return found


def strict(folder: Path, *more: str | Path, code: str = "strict_attacks.py") -> list[str | Path]:
    level = [] if "--sandbox-level" in more else ["--sandbox-level", BEST]
    return [HKRUNNER, "-e", folder / "code" / code, "--sandbox", "strict", *level, "--json", *more]


def check(found: dict[str, Any], level: str) -> None:
    """Every attempt was refused, in one of the ways there are, but those that no level prevents."""
    for name in NOT_PREVENTED_AT_ANY:
        assert found.pop(name) == "done", name
    missing, refused = call_numbers.MISSING[MACHINE], call_numbers.REFUSED[MACHINE]
    for name, came in found.items():
        if name in missing or name in ("a call that does not exist", "a call of x32"):
            assert came == "ENOSYS", (name, came)
        elif name in refused or name.startswith(("clone ", "push ", "take ")):
            assert came == "EPERM", (name, came)
        elif name == "a call of i386":
            assert came in ("SIGSYS", "SIGSEGV"), came  # the latter where the kernel has no such calls
        elif name.startswith(("connect", "send", "look", "make ")) and name not in NOT_HELD[level]:
            wanted = {
                "ECONNREFUSED",
                "ENETUNREACH",
                "EAFNOSUPPORT",
                "EACCES",
                "EPERM",
                "not found",
                "EPROTONOSUPPORT",
            } | REFUSED
            assert came in wanted, (name, came)
        elif name == OTHER_END and level == "full":
            assert came in ("EINVAL", "ESRCH"), came  # that process is in another pid namespace
        elif name not in NOT_HELD[level]:
            assert came in REFUSED, (name, came)


@pytest.mark.parametrize("user", ["own", "another"])
@needs_sandbox
def test_at_the_strongest_level_no_attack_succeeds(folder: Path, target: dict[str, Any], user: str) -> None:
    command = strict(folder)
    if user == "another":
        command += ["--python", python_for_all()]
        for one in (folder, folder / "code", folder / "elsewhere"):
            give_to_bounded(one)
        command = bounded_command(command, tasks=300)
    found = attack(command, folder, target, "files", "processes", "calls", "network")
    assert len(found) > 110
    check(found, BEST)
    assert not list((folder / "code/.hkrunner/boxes").iterdir()), "what it has locked is moved all the same"
    assert list((folder / "code/.hkrunner/runs").rglob("t1/metrics/locked"))


@pytest.mark.parametrize("level", ["ns", "landlock"])
def test_a_weaker_level_holds_all_but_what_it_says(folder: Path, target: dict[str, Any], level: str) -> None:
    if "full" not in POSSIBLE:
        return  # this machine is a weaker one itself: the test before this one ran on it
    command = machine_for(level, strict(folder, "--sandbox-level", level))
    found = attack(command, folder, target, "files", "processes", "calls", "network")
    check(found, level)


@needs_sandbox
def test_a_folder_that_the_algorithm_falsely_reports_as_its_shared_memory_stays(folder: Path) -> None:
    code = "strict_reports_what_it_did_not_make.py"
    theirs = folder / "code" / "theirs"
    theirs.mkdir()
    (theirs / "data").write_text("x")
    shutil.copy(ALGORITHMS / code, folder / "code")
    ended = run([*strict(folder, code=code), "-i", json.dumps([str(theirs)])], cwd=folder)
    assert json.loads(ended.stdout)["output"] == 1, ended
    assert (theirs / "data").read_text() == "x"


@needs_sandbox
def test_nothing_that_one_process_of_the_algorithm_leaves_is_seen_by_the_next(
    folder: Path, target: dict[str, Any]
) -> None:
    inputs = [json.dumps([kind, target]) for kind in ("leftovers", "end", "leftovers")]
    ended = run([*strict(folder), *(word for one in inputs for word in ("-i", one))], cwd=folder)
    first, crash, second = map(json.loads, ended.stdout.splitlines())
    assert (first["output"], crash["error"]["code"], second["output"]) == ([], "EXITED", []), ended
    check_nothing_is_left()


@pytest.mark.parametrize("level", LEVELS)
@needs_sandbox
def test_what_a_process_keeps_open_leads_to_its_own_metrics_only(
    folder: Path, target: dict[str, Any], level: str
) -> None:
    """A descriptor stays valid when its file is moved to the record; nothing else is reached from there."""
    if level not in POSSIBLE:
        return
    command = strict(folder, "--sandbox-level", level)
    command = machine_for(level, command) if level != BEST else command
    found = attack(command, folder, target, "keep", "use_what_was_kept")
    assert json.loads(Path(target["state"], "tasks/t1/output.json").read_text()) == {"kept": "done"}
    assert found.pop("kept") == found.pop("write to the metrics of the task before") == "done"
    assert len(found) == 18
    # Without a root folder of its own it may list the folders on the way to what it may read.
    found = {name: came for name, came in found.items() if level != "landlock" or "record" in name}
    assert set(found.values()) <= REFUSED, found


@needs_sandbox
def test_what_ordinary_code_does_works_and_its_results_and_metrics_are_kept(folder: Path) -> None:
    given = folder / "given"
    given.mkdir()
    (given / "data").write_text("data")
    (folder / "made").mkdir()
    options = ["--read", given, "--write", folder / "made", "--env", "TOLD=yes", "--env", "PASSED_ON"]
    options += ["--mem", "512Mi", "--pids", "20", "--cpu-time", "60"]
    inputs = ["-i", json.dumps([str(given), str(folder / "made")]), "-i", json.dumps([str(given), None])]
    command = [*strict(folder, *options, code="strict_uses.py"), *inputs]
    ended = run(command, cwd=folder, env={"PASSED_ON": "too", "A_SECRET": "hidden"})
    assert ended.status == 0, ended
    first, second = map(json.loads, ended.stdout.splitlines())
    assert (
        first["output"]
        == second["output"]
        == {
            "fork pool": [1, 4, 9],
            "spawned pool": [1, 4, 9],
            "threads": [1, 4, 9],
            "shared memory": "text",
            "semaphore": True,
            "program": "6",
            "manager": {"a": 1},
            "database": [1],
            "own server": "hello",
            "read": "data",
            "told": ["yes", "too", None],
            "renamed": True,
            "asyncio": 42,
            "pid of the first process is not seen as ours": True,
        }
    )
    assert first["protection"]["sandbox"] == BEST
    assert f"● sandbox: strict, level {BEST}, no network" in ended.stderr
    assert (folder / "made/file").read_text() == "made"
    for task in (first, second):
        record = Path(task["logs"]["stdout"]).parent
        assert json.loads((record / "output.json").read_text()) == task["output"]
        assert json.loads((record / "input.json").read_text())[0] == str(given)
        assert [path.read_text() for path in Path(task["metricsDir"]).rglob("metric")] == [task["taskId"]]
        assert 5 << 20 < task["peakMemBytes"] < 400 << 20
        assert task["cpuSeconds"] > 0.02
    assert not list((folder / ".hkrunner/boxes").iterdir())
    check_nothing_is_left()


@pytest.mark.parametrize("level", LEVELS)
def test_what_libraries_do_works_at_each_level(folder: Path, level: str) -> None:
    # Without a network namespace there are no sockets for IPv4 and IPv6 at all.
    without_network = {"names_of_its_own_network", "datagrams_to_itself", "a_server_in_a_loop"}
    # And no terminals but those of the machine.
    not_at_landlock = {*without_network, "a_terminal_of_its_own"}
    command = strict(folder, "--sandbox-level", level, "-i", "1", code="strict_many_uses.py")
    command = machine_for(level, command) if level != BEST else command
    ended = run(command, cwd=folder, env={"TMPDIR": "/tmp"})
    if level not in POSSIBLE:
        assert (ended.status, "SANDBOX_UNAVAILABLE" in ended.stderr) == (2, True), ended
        return
    task = json.loads(ended.stdout)
    assert task["protection"]["sandbox"] == level
    failed = {name: error for name, error in task["output"].items() if error is not True}
    assert set(failed) == (not_at_landlock if level == "landlock" else set()), failed
    assert len(task["output"]) == 34


#: What is tried -> code and text of the error.
TOLD = {
    "memory": ("OUT_OF_MEMORY", "of 200 MiB allowed"),
    "processes": ("TOO_MANY_PROCESSES", "of 10 allowed"),
    "signal": ("KILLED_BY_SIGNAL", "SIGABRT"),
    "write its code": ("ALGORITHM_ERROR", "--write"),
    "read elsewhere": ("ALGORITHM_ERROR", "--read /elsewhere/file opens it"),
    "connect": ("ALGORITHM_ERROR", "--sandbox strict has no network: --net HOST:PORT opens one address"),
    "look up": ("ALGORITHM_ERROR", "so that this name is not found: --net HOST:PORT"),
    "download": ("ALGORITHM_ERROR", "so that this name is not found: --net HOST:PORT"),
    "time": ("TASK_TIMEOUT", "took longer than 3 s"),
}


@needs_sandbox
def test_limits_crashes_and_refusals_are_told_as_such(folder: Path) -> None:
    options = ["--mem", "200Mi", "--pids", "10", "--timeout", "3", "--mem-mode", "rss"]
    command = strict(folder, *options, code="strict_is_refused.py")
    inputs = [word for what in (*TOLD, "behave") for word in ("-i", json.dumps(what))]
    *failed, last = map(json.loads, run([*command, *inputs], cwd=folder).stdout.splitlines())
    for (code, text), task in zip(TOLD.values(), failed, strict=True):
        assert task["error"]["code"] == code and text in task["error"]["message"], task["error"]
    assert last["output"] == "served"
    check_nothing_is_left()


@pytest.mark.parametrize(
    ("machine", "least", "words"),
    [
        ("ns", "full", ["full: the mount of /proc", "procMount: Unmasked", "The level ns would start"]),
        (
            "landlock",
            "ns",
            ["ns: new namespaces", "user.max_user_namespaces", "The level landlock would start"],
        ),
    ],
)
def test_what_the_machine_cannot_hold_is_not_started_and_the_message_says_what_would(
    folder: Path, machine: str, least: str, words: list[str]
) -> None:
    if "full" not in POSSIBLE:
        return  # what this machine refuses, test_doctor.py shows
    options = ["--sandbox-level", least, "-i", '"behave"']
    command = machine_for(machine, strict(folder, *options, code="strict_is_refused.py"))
    ended = run(command, cwd=folder, env={"TMPDIR": "/tmp"})
    assert ended.status == 2, ended
    assert ended.stderr.count("SANDBOX_UNAVAILABLE: ") == 1 and "served" not in ended.stdout
    for word in words:
        assert word in ended.stderr, ended.stderr
    # To serve a worker is refused in the same way, and not retried for each task.
    serving = [HKRUNNER, "-e", folder / "code/strict_is_refused.py", "--url", "ws://127.0.0.1:9"]
    serving += ["--sandbox", "strict", "--sandbox-level", least]
    served = run(machine_for(machine, serving), cwd=folder, env={"TMPDIR": "/tmp"})
    assert served.status == 2 and "SANDBOX_UNAVAILABLE: " in served.stderr, served


def test_the_weaker_level_that_was_accepted_says_what_it_does_not_hold(folder: Path) -> None:
    if "full" not in POSSIBLE:
        return  # there is nothing stronger than what this machine holds
    options = ["--sandbox-level", "landlock", "-i", '"behave"']
    command = machine_for("ns", strict(folder, *options, code="strict_is_refused.py"))
    ended = run(command, cwd=folder, env={"TMPDIR": "/tmp"})
    (task,) = map(json.loads, ended.stdout.splitlines())
    assert (task["output"], task["protection"]["sandbox"]) == ("served", "ns")
    assert task["protection"]["refused"][0].startswith("full: the mount of /proc")
    assert "● sandbox: strict, level ns, no network" in ended.stderr
    open_to_it = task["protection"]["not_prevented"][0]
    assert f"  not prevented: {open_to_it}" in ended.stderr and "sees the machine's processes" in open_to_it


def test_a_dry_run_lists_what_may_be_read_written_and_reached(folder: Path) -> None:
    options = ["--dry-run", "--read", folder / "elsewhere", "-i", "1"]
    ended = run(strict(folder, *options), cwd=folder, env={"A_SECRET": "hidden"})
    found = json.loads(ended.stdout)["sandbox"]
    assert {str(folder / "code"), str(folder / "elsewhere"), "/usr"} <= set(found["read"])
    assert not [one for one in found["read"] if one in ("/", "/etc", "/home", str(folder))]
    assert found["network"] == [] and "A_SECRET" not in found["inherited"]
    assert found["hidden"] == [str(folder / ".hkrunner")]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--gpu", "1"], "--sandbox strict has no GPUs (--gpu): give --no-gpu to run without them"),
        (["--path", "/"], "the code lies in / itself, all of which it could then read"),
    ],
)
def test_what_a_sandbox_cannot_give_is_refused_at_once(folder: Path, options: list[str], text: str) -> None:
    ended = run([*strict(folder, "-i", "1"), *options], cwd=folder)
    assert (ended.status, text in ended.stderr) == (2, True), ended


@pytest.mark.parametrize("killed", ["hkrunner", "warden"])
@needs_sandbox
def test_no_process_and_no_folder_stays_when_hkrunner_or_the_warden_is_killed(
    folder: Path, killed: str
) -> None:
    command = strict(folder, code="strict_is_refused.py")
    program = Program([*command, "-v", "-i", '"sleep"'], cwd=folder, env={"TMPDIR": "/tmp"})
    try:
        program.wait_for_line("RUNNING")
        least = 4 if BEST == "full" else 3  # with process 1 of the namespace
        below = wait_until(
            lambda: len(found := psutil.Process(program.pid).children(recursive=True)) >= least and found,
            what="the warden, the algorithm and its child",
        )
        assert below
        (program if killed == "hkrunner" else below[0]).send_signal(signal.SIGKILL)
        wait_until(lambda: not [one for one in below if runs(one)], what="the end of all")
        program.wait()
    finally:
        program.kill()
    check_nothing_is_left()
