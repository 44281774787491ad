"""What an error says of --sandbox strict which has hidden or refused something."""

from __future__ import annotations

import builtins
import errno
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hkrunner.sandbox.child import isolation_hints
from hkrunner.sandbox.child.exception_codes import hint_of


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if this were an isolated child, which sees /code and writes to /made."""
    for name, value in (("HOME", "/tmp/.home"), ("TMPDIR", "/tmp"), ("PATH", f"{os.defpath}:/nowhere/bin")):
        monkeypatch.setenv(name, value)
    isolation_hints.use({"readable": ["/code"], "writable": ["/made"], "network": False, "targets": []})
    yield
    isolation_hints.use(None)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(errno.ENOENT, "", "/data/a"), "--read /data/a opens it"),
        (FileNotFoundError(errno.ENOENT, "", "/tmp/.home/a"), "a home of its own"),
        (FileNotFoundError(errno.ENOENT, ""), "hides files and sockets elsewhere: --read"),
        (FileNotFoundError(errno.ENOENT, "", "/code/a"), ""),
        (OSError(errno.EROFS, "", "/code/a"), "lets the code read this, not write: --write /code opens it"),
        (PermissionError(errno.EPERM, "", "/tmp/program"), "refuses this call"),
        (PermissionError(errno.EPERM, "", "/made/program"), "refuses this call"),
        (sqlite3.OperationalError("unable to open database file"), "--write with the path of its folder"),
        (FileNotFoundError(errno.ENOENT, "", "/dev/nvidia0"), "has no GPUs"),
        (OSError(errno.EROFS, "", "/results"), "--write /results opens this, if it exists outside"),
        (OSError(errno.EXDEV, "", "/tmp/a", None, "/made/a"), "shutil.move() copies"),
        (OSError(errno.EADDRNOTAVAIL, ""), "no address but 127.0.0.1: --net HOST:PORT"),
        (PermissionError(errno.EPERM, ""), "--sandbox strict refuses this call"),
        (KeyError("a"), ""),
        (sqlite3.OperationalError("no such table: a"), ""),
        (
            subprocess.CalledProcessError(1, "cat", stderr=b"a\ncat: /b: No such file or directory\n"),
            "cat: /b: No",
        ),
        (subprocess.CalledProcessError(1, "cat", stderr="usage: cat"), ""),
        (
            subprocess.CalledProcessError(2, "tar", stderr=b"tar: a: Cannot change ownership to uid 1000"),
            "knows its own user and group only",
        ),
        (
            subprocess.CalledProcessError(
                1, "ssh", output=b"ssh: Could not resolve hostname a: Temporary failure in name resolution"
            ),
            "--sandbox strict has no network: --net HOST:PORT",
        ),
        (subprocess.CalledProcessError(1, "cat"), ""),
    ],
)
def test_an_error_names_the_option_that_opens_what_it_missed(error: Exception, text: str) -> None:
    found = hint_of(error, str(error), "/code")
    assert text in found and bool(text) == bool(found)


def test_a_program_that_is_not_found_may_lie_in_a_hidden_folder_of_path() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        subprocess.run(["no-such-program"], check=True)
    assert hint_of(caught.value, str(caught.value), "/code").endswith(
        "hides /nowhere/bin: --read opens a folder"
    )
    with pytest.raises(FileNotFoundError) as opened:
        os.stat("no-such-file")
    assert "PATH" not in hint_of(opened.value, str(opened.value), os.getcwd())


def test_a_link_to_what_is_hidden_names_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("/nowhere/data")
    isolation_hints.use({"readable": [str(tmp_path)], "writable": [], "network": False, "targets": []})
    found = isolation_hints.hint(errno.ENOENT, str(tmp_path / "data/a.csv"), "FileNotFoundError")
    assert "--read /nowhere/data/a.csv opens it" in found


def test_a_path_that_no_call_can_have_had_is_not_resolved() -> None:
    assert isolation_hints.hint(errno.ENOENT, "/a" * 1_500_000, "FileNotFoundError") == ""


def test_an_error_within_a_group_is_found() -> None:
    group = getattr(builtins, "ExceptionGroup", None)
    if group is None:
        return  # Python 3.10
    error = group("several", [ValueError("a"), FileNotFoundError(errno.ENOENT, "", "/data/a")])
    assert "--read /data/a opens it" in hint_of(error, str(error), "/code")


def test_a_variable_that_is_not_passed_on_and_a_folder_that_modules_come_from_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(KeyError) as missing:
        os.environ["API_KEY_OF_MINE"]
    found = hint_of(missing.value, str(missing.value), "/code")
    assert found.endswith("passes on only some variables: --env API_KEY_OF_MINE adds this one")
    monkeypatch.syspath_prepend("/nowhere/lib")
    module = ModuleNotFoundError("No module named 'mine'", name="mine")
    assert "of sys.path, --sandbox strict hides /nowhere/lib, if it exists: --read" in hint_of(
        module, "", "/code"
    )


def test_where_there_is_no_tmp_of_its_own_the_code_learns_where_its_temporary_folder_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMPDIR", "/var/box/tmp")
    isolation_hints.use({"readable": [], "writable": [], "network": False, "targets": []})
    found = isolation_hints.hint(errno.EACCES, "/tmp/a", "PermissionError")
    assert found == "; --sandbox strict refuses it: TMPDIR is /var/box/tmp, and --read /tmp/a opens it"
