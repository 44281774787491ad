"""What a command does when the system refuses a step of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from hkrunner.runner.app import build_image
from hkrunner.runner.app.in_process import _SupervisorEnd
from hkrunner.runner.cli.run import values_of
from hkrunner.runner.errors import SettingsError
from hkrunner.runner.settings.from_options import settings_of


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
