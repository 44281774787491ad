"""What --install has the installer do, and the cache of environments when it can only be read."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from hkrunner.runner.errors import SettingsError
from hkrunner.runner.prepare import installers, interpreter
from hkrunner.runner.prepare.environments import EnvironmentCache
from hkrunner.runner.prepare.interpreter import probe
from hkrunner.runner.prepare.requirement_sources import find_requirements
from hkrunner.sandbox.shared.entry import locate
from support.processes import runs
from support.waiting import wait_until

NAME = "0123456789abcdef"


def commands(folder: Path, packages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words of each call of an installer, after `install`."""
    (folder / "alg.py").touch()
    requirements = find_requirements(locate(str(folder / "alg.py"), None, str(folder)), str(folder))
    assert requirements is not None
    found: list[list[str]] = []
    monkeypatch.setattr(installers, "_run", lambda words, *_: found.append(words))
    base = probe(sys.executable, str(folder))
    installers.install(str(folder / "env"), base, requirements, packages, {"PATH": ""}, print)
    return [words[words.index("install") + 1 :] for words in found if "install" in words]


def test_a_python_that_does_not_answer_is_named_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (interpreter, installers):
        monkeypatch.setattr(module, "ANSWER_S", 0.02)
    (tmp_path / "slow").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "slow").chmod(0o755)
    with pytest.raises(SettingsError, match=r"^--python \./slow \(.*\): it did not answer within 0.02 s$"):
        probe("./slow", str(tmp_path))
    without_pip = interpreter.Interpreter(str(tmp_path / "slow"), (3, 12, 0), frozenset())
    assert not installers._pip_installs_elsewhere(without_pip), "a pip that cannot be imported is none"


def test_a_list_that_only_names_another_one_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "requirements.txt"
    listed.write_text("-r none.txt\n")
    (words,) = commands(tmp_path, (), monkeypatch)
    assert words[-2:] == ["-r", str(listed)]
    listed.write_text("# nothing\n")
    assert commands(tmp_path, (), monkeypatch) == []


def test_packages_of_an_encoding_are_installed_apart_from_requirements_that_may_have_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requirements.txt").write_text("six==1.16.0 --hash=sha256:00\n")
    listed, encoding = commands(tmp_path, ("pymongo",), monkeypatch)
    assert listed[-2] == "-r" and "pymongo" not in listed
    assert encoding[-1] == "pymongo" and "-r" not in encoding


def test_the_reason_of_a_failed_build_is_what_the_build_printed() -> None:
    above = """\
  error: subprocess-exited-with-error
  \u00d7 Building wheel for lib (setup.py) did not run successfully.
  \u2502 exit code: 1
  \u2570\u2500> [9 lines of output]
      1
      2
      3
      4
      lib.c:1:10: fatal error: zlib.h: No such file or directory
      compilation terminated.
      error: command '/usr/bin/gcc' failed with exit code 1
      [end of output]
  note: This error originates from a subprocess, and is likely not a problem with pip.
error: failed-wheel-build-for-install
\u00d7 Failed to build installable wheels for some pyproject.toml based projects
\u2570\u2500> lib"""
    what, *printed = installers._reason(above.splitlines())
    assert what == "\u00d7 Building wheel for lib (setup.py) did not run successfully."
    assert [line.strip() for line in printed] == [
        "3",
        "4",
        "lib.c:1:10: fatal error: zlib.h: No such file or directory",
        "compilation terminated.",
        "error: command '/usr/bin/gcc' failed with exit code 1",
    ]


#: Installs with a shell that starts another process, as pip does, and prints the id of that.
INSTALLS = """
import os
from hkrunner.runner.prepare import installers
from hkrunner.runner.prepare.requirement_sources import Requirements

words = ["sh", "-c", "sleep 600 & echo $!; wait"]
installers._run(words, Requirements("r", "/r", (), ()), "", os.environ, lambda line: print(line, flush=True))
"""


def test_what_the_installer_has_started_ends_with_hkrunner_even_when_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", INSTALLS], stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        started = psutil.Process(int(killed.stdout.readline()))
        family = [started, *started.parents()[:2]]  # the shell is the installer, started by our starter
        killed.kill()
    try:
        wait_until(lambda: not any(map(runs, family)), what="the end of what the installer had started")
    finally:
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def test_a_login_that_the_installer_prints_is_not_shown() -> None:
    printed = io.BytesIO(b"error: cannot fetch https://ada:hush@host.example/simple\n")
    assert list(installers._lines(printed)) == ["error: cannot fetch https://****@host.example/simple"]


def test_code_that_builds_a_package_does_not_inherit_the_login_of_a_cluster() -> None:
    environ = {"HKRUNNER_CLUSTER_TOKEN": "t", "HKRUNNER_CLUSTER_PASSWORD": "p", "PIP_INDEX_URL": "http://i"}
    env = installers._environment(environ, "/tmp")
    assert env["UV_DEFAULT_INDEX"] == "http://i" and not [one for one in env if "CLUSTER" in one]


def test_a_complete_environment_is_used_from_a_cache_that_can_only_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EnvironmentCache(str(tmp_path))

    def make(folder: str) -> dict[str, Any]:
        os.makedirs(f"{folder}/bin")
        os.symlink(sys.executable, f"{folder}/bin/python")
        return {}

    with contextlib.ExitStack() as stack:
        made = cache.use(NAME, make, lambda: None, stack)
    opened = os.open

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def open_to_read(path: str, flags: int, *more: Any) -> int:
        if flags & (os.O_RDWR | os.O_CREAT):
            refuse()
        return opened(path, flags, *more)

    monkeypatch.setattr(os, "open", open_to_read)
    monkeypatch.setattr(os, "utime", refuse)
    with contextlib.ExitStack() as stack:
        assert cache.use(NAME, make, lambda: None, stack) == made
    with pytest.raises(Exception, match=r"no environment can be made .*: Read-only file system"):
        cache.use("f" * 16, make, lambda: None, contextlib.ExitStack())
