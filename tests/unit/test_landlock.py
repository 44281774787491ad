"""What a confined process can still do to others."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hkrunner.sandbox.linux import landlock
from hkrunner.sandbox.linux.landlock import SCOPES_SINCE_ABI, Applied, confine


def needs_scopes(test: Callable[..., None]) -> Callable[..., None]:
    """On a kernel without scopes, the test is that this is reported."""
    if landlock.abi() >= SCOPES_SINCE_ABI:
        return test

    def says_why_not() -> None:
        assert in_child(lambda: confine().why_not)

    return says_why_not


def in_child(act: Callable[[], str]) -> str:
    """Return what a forked process answers."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        try:
            answer = act()
        except Exception as error:  # noqa: BLE001
            answer = f"{type(error).__name__}"
        os.write(write_end, answer.encode())
        os._exit(0)
    os.close(write_end)
    answer = os.read(read_end, 4096).decode()
    os.close(read_end)
    os.waitpid(pid, 0)
    return answer


@needs_scopes
def test_a_confined_process_cannot_signal_its_parent_not_even_to_ask() -> None:
    parent = os.getpid()

    def act() -> str:
        assert not confine().why_not
        os.kill(parent, 0)
        return "allowed"

    assert in_child(act) == "PermissionError"


@needs_scopes
def test_a_confined_process_can_end_its_own_children() -> None:
    def act() -> str:
        confine()
        pid = os.fork()
        if pid == 0:
            time.sleep(10)
            os._exit(0)
        os.kill(pid, signal.SIGKILL)
        return str(os.WTERMSIG(os.waitpid(pid, 0)[1]))

    assert in_child(act) == "9"


@needs_scopes
def test_what_it_executes_is_confined_too() -> None:
    parent = os.getpid()

    def act() -> str:
        confine()
        return str(os.waitstatus_to_exitcode(os.system(f"kill -0 {parent} 2>/dev/null")))

    assert in_child(act) != "0"


@needs_scopes
def test_its_parent_can_still_end_it() -> None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        confine()
        os.write(write_end, b"c")
        time.sleep(10)
        os._exit(0)
    os.read(read_end, 1)
    os.kill(pid, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    os.close(read_end)
    os.close(write_end)


@needs_scopes
def test_files_and_network_are_left_alone() -> None:
    def act() -> str:
        import socket

        confine()
        with open("/proc/self/status") as file:
            assert "NoNewPrivs:\t1" in file.read()
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
        return "fine"

    assert in_child(act) == "fine"


@needs_scopes
def test_nothing_below_sys_can_be_written_and_all_else_as_before(tmp_path: Path) -> None:
    """An algorithm with a cgroup of its own could raise its limits there, or kill hkrunner."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    # A file that only the superuser may write; to open it changes nothing.
    below_sys = "/sys/kernel/mm/transparent_hugepage/enabled"

    def act() -> str:
        handled = landlock.WRITE_FILE | landlock.REFER
        assert not confine(handled_fs=handled, rules=landlock.all_but_sys()).why_not
        (tmp_path / "one/file").write_text("text")
        os.truncate(tmp_path / "one/file", 2)
        os.rename(tmp_path / "one/file", tmp_path / "other/file")
        os.link(tmp_path / "other/file", tmp_path / "one/again")
        Path("/dev/null").write_text("text")
        Path("/proc/self/comm").write_text("other")
        assert Path(below_sys).read_text()
        os.close(os.open(below_sys, os.O_WRONLY))
        return "opened"

    assert in_child(act) == "PermissionError"
    assert (tmp_path / "one/again").read_text() == "te"


@needs_scopes
def test_confinement_takes_less_time_than_starting_a_program() -> None:
    def act() -> str:
        began = time.perf_counter()
        confine()
        return f"{time.perf_counter() - began}"

    # As often as it takes on a machine that does something else meanwhile: mostly once.
    assert any(float(in_child(act)) < 0.005 for _ in range(50))


@pytest.mark.parametrize(
    ("abi", "why"),
    [(0, "this kernel has no Landlock"), (4, "Landlock ABI 4 has no scopes, they came with 6")],
)
def test_a_kernel_without_landlock_changes_nothing_and_reports_why(
    abi: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: abi)

    def act() -> str:
        applied = confine()
        with open("/proc/self/status") as file:
            assert "NoNewPrivs:\t0" in file.read()
        return applied.why_not

    assert in_child(act) == why


def test_landlock_is_described_as_a_part_of_a_sentence() -> None:
    assert Applied(7, 3).describe() == "signals confined to the algorithm's own processes"
    assert Applied(0, 0, "this kernel has no Landlock").describe() == (
        "signals unconfined: this kernel has no Landlock"
    )
