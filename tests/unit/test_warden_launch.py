"""The warden may be started before it is needed, and never outlives the need."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hkrunner.runner import entry_point
from hkrunner.runner.entry_point import _starts_algorithm
from hkrunner.sandbox.parent import warden_launch
from hkrunner.sandbox.shared.outcome import not_started, report
from support.waiting import wait_until


@pytest.fixture(autouse=True)
def none_waits() -> Iterator[None]:
    yield
    warden_launch.discard()


def test_a_warden_started_ahead_is_taken_first() -> None:
    warden_launch.prepare()
    warden_launch.prepare()
    (pid,) = warden_launch.waiting()
    first, second = warden_launch.take(), warden_launch.take()
    assert first.process.pid == pid != second.process.pid
    assert not warden_launch.waiting()
    for one in (first, second):
        one.lifeline.close()
        assert one.process.wait(timeout=10) == 0, "it ends with its lifeline"


def test_a_warden_that_was_killed_meanwhile_is_not_taken() -> None:
    warden_launch.prepare()
    (pid,) = warden_launch.waiting()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: _is_zombie(pid), what="its end")
    one = warden_launch.take()
    assert one.process.pid != pid
    one.lifeline.close()
    one.process.wait(timeout=10)


def test_a_warden_that_was_not_taken_ends_when_it_is_discarded() -> None:
    warden_launch.prepare()
    (pid,) = warden_launch.waiting()
    warden_launch.discard()
    assert not warden_launch.waiting() and not os.path.exists(f"/proc/{pid}")


def test_a_warden_whose_child_has_ended_is_taken_for_the_next_one_or_ends() -> None:
    one = warden_launch.take()
    with warden_launch.offered(one):
        assert warden_launch.take() is one
    assert one.process.poll() is None
    with warden_launch.offered(one):
        pass
    assert one.process.returncode is not None and not warden_launch.waiting()


def test_a_warden_reads_its_lifeline_whatever_number_the_parent_gives_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = socket.socketpair

    def make_high() -> tuple[socket.socket, socket.socket]:
        ours, theirs = make()
        with theirs:
            high = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 1100)
        return ours, socket.socket(fileno=high)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(2000, hard)), hard))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socketpair", make_high)
            one = warden_launch.take()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    one.lifeline.close()
    assert one.process.wait(timeout=10) == 0, "it ends with its lifeline"


@pytest.mark.parametrize("line", ["", "alg.py", "-e alg.py -i 1", "run alg.py", "./alg", "--mem 1Gi -e a.b"])
def test_a_run_starts_its_warden_ahead(line: str) -> None:
    assert _starts_algorithm(line.split())


@pytest.mark.parametrize(
    "line", ["--version", "-h", "run --help", "doctor", "runs ls", "alg.py --pdb", "board start t1"]
)
def test_a_command_that_runs_no_algorithm_starts_no_warden(line: str) -> None:
    assert not _starts_algorithm(line.split())


def _is_zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] == b"Z"


def test_a_library_of_another_python_is_reported_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'select'", name="select")

    monkeypatch.setattr(entry_point, "_main", fail)
    monkeypatch.setenv("PYTHONHOME", "/elsewhere")
    with pytest.raises(SystemExit, match="No module named 'select': PYTHONHOME is /elsewhere"):
        entry_point.main()
    monkeypatch.delenv("PYTHONHOME")
    with pytest.raises(ModuleNotFoundError):
        entry_point.main()


def test_a_program_that_may_not_be_executed_is_named() -> None:
    refused = not_started(PermissionError(13, "Permission denied", "/nowhere/python"))
    assert report(refused).endswith("process could not be started: Permission denied: /nowhere/python")


def test_ctrl_c_before_the_handlers_are_installed_shows_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry_point, "_run", interrupted)
    monkeypatch.setattr("sys.argv", ["hkrunner", "runs"])
    with pytest.raises(SystemExit) as ended:
        entry_point.main()
    assert ended.value.code == 130


def test_a_package_inside_a_zip_file_is_reported_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would take start.py for a folder there, and its complaint be all that is said."""
    monkeypatch.setattr(warden_launch, "START", str(tmp_path / "all.zip" / "start.py"))
    with pytest.raises(FileNotFoundError, match=r"hkrunner cannot run inside a zip file: unpack it"):
        warden_launch.take()
