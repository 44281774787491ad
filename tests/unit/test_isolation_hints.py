"""What an error says of --sandbox strict which has hidden or refused something."""

from __future__ import annotations

import builtins
import errno
import os
import sqlite3
import subprocess
from collections.abc import Iterator

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
        (FileNotFoundError(errno.ENOENT, ""), "hides sockets that have a path: --read"),
        (FileNotFoundError(errno.ENOENT, "", "/code/a"), ""),
        (OSError(errno.EROFS, "", "/code/a"), "lets the code read this, not write: --write /code opens it"),
        (PermissionError(errno.EPERM, "", "/tmp/program"), "refuses this call"),
        (PermissionError(errno.EPERM, "", "/made/program"), "refuses this call"),
        (sqlite3.OperationalError("unable to open database file"), "--write with the path of its folder"),
        (sqlite3.OperationalError("no such table: a"), ""),
        (
            subprocess.CalledProcessError(1, "cat", stderr=b"a\ncat: /b: No such file or directory\n"),
            "cat: /b: No",
        ),
        (subprocess.CalledProcessError(1, "cat", stderr="usage: cat"), ""),
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


def test_an_error_within_a_group_is_found() -> None:
    group = getattr(builtins, "ExceptionGroup", None)
    if group is None:
        return  # Python 3.10
    error = group("several", [ValueError("a"), FileNotFoundError(errno.ENOENT, "", "/data/a")])
    assert "--read /data/a opens it" in hint_of(error, str(error), "/code")
