"""What a command does when the system refuses a step of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import hkrunner
import pytest
from hkrunner.boards.board_child import send_signal
from hkrunner.boards.runs.files import ProcessIdentity
from hkrunner.runner.app import build_image, in_process
from hkrunner.runner.app.in_process import _SupervisorEnd
from hkrunner.runner.app.surroundings import explain
from hkrunner.runner.cli.run import values_of
from hkrunner.runner.errors import HkrunnerError, SettingsError
from hkrunner.runner.settings.from_options import settings_of
from hkrunner.sandbox.parent.warden_launch import has_ended
from hkrunner.sandbox.shared.entry import Location
from support.programs import ROOT


def test_a_build_context_that_cannot_be_written_or_listed_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: str, *_: object) -> NoReturn:
        raise PermissionError(13, "Permission denied", f"{folder}/code")

    (tmp_path / "main.py").write_text("def start(args): ...\n")
    monkeypatch.chdir(tmp_path)
    settings = settings_of(values_of(["-e", "main.py"]), {})
    request = build_image.ImageRequest(base="python:3.12-slim", context="made")
    monkeypatch.setattr(build_image, "write_context", refuse)
    sentence = rf"^the build context cannot be written: {tmp_path}/made/code: Permission denied$"
    with pytest.raises(SettingsError, match=sentence):
        build_image.build_image(settings, request, "1.0", lambda line: None)
    names_in = os.listdir
    monkeypatch.setattr(os, "listdir", lambda one: refuse(one) if one.endswith("/made") else names_in(one))
    with pytest.raises(SettingsError, match=r"^--context made cannot be used: Permission denied$"):
        build_image.build_image(settings, request, "1.0", lambda line: None)


def test_the_process_of_the_user_ends_with_its_supervisor_though_nobody_reads_stderr(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(fd: int, data: bytes) -> NoReturn:
        raise BrokenPipeError(32, "Broken pipe")

    killed: list[tuple[int, int]] = []
    nothing: Any = SimpleNamespace(restore=lambda: None)
    ended, other_end = os.pipe()
    os.close(other_end)  # readable, as a pidfd is at the end of its process
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", broken)
        patched.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
        with pytest.raises(BrokenPipeError):
            _SupervisorEnd(nothing, nothing)._watch(ended)
    assert killed == [(os.getpid(), signal.SIGKILL)]


@pytest.fixture(params=["the kernel", "Python"])
def without_pidfds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> NoReturn:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    if request.param == "Python":
        monkeypatch.delattr(os, "pidfd_open")
    else:
        monkeypatch.setattr(os, "pidfd_open", refuse)


@pytest.mark.usefixtures("without_pidfds")
def test_a_board_is_ended_where_the_system_has_no_pidfds() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as board:
        identity = ProcessIdentity.of(board.pid)
        assert identity is not None
        send_signal(identity, signal.SIGTERM)
        assert board.wait(10) == -signal.SIGTERM
        send_signal(identity, signal.SIGTERM)  # it is gone: nothing happens


@pytest.mark.usefixtures("without_pidfds")
def test_the_end_of_a_warden_is_noticed_where_the_system_has_no_pidfds() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as warden:
        assert not has_ended(warden, 0.0)
        assert warden.stdin is not None
        warden.stdin.close()
        assert has_ended(warden, 10.0)


@pytest.mark.usefixtures("without_pidfds")
def test_hkrunner_run_notices_the_end_of_its_command_where_the_system_has_no_pidfds(tmp_path: Path) -> None:
    (result,) = hkrunner.run(ROOT / "examples" / "sum.py", [[1, 2]], state_dir=tmp_path)
    assert result.output == 3


@pytest.mark.usefixtures("without_pidfds")
def test_in_process_is_refused_in_one_sentence_where_the_system_has_no_pidfds(tmp_path: Path) -> None:
    settings = settings_of(values_of(["-e", "main.py", "--in-process"]), {})
    with pytest.raises(HkrunnerError, match=r"^--in-process needs Linux 5\.3 .* \(.*\): run the code"):
        in_process.run(settings, Location(str(tmp_path), "main", "start", str(tmp_path / "main.py")))


def test_a_folder_that_cannot_be_listed_for_lack_of_memory_is_a_matter_of_memory() -> None:
    sentence = explain(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "hkrunner/sandbox/codec"))
    assert sentence is not None and sentence.startswith("hkrunner itself has no memory left")
