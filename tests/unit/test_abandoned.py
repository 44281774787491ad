"""Files that a killed process left are removed by a later one; those in use or made elsewhere stay."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hkrunner.runner.console.output_file import OutputFile
from hkrunner.runner.prepare.prepare import temporary_folder
from hkrunner.sandbox.linux import abandoned
from hkrunner.sandbox.linux.abandoned import remove_abandoned, signed_name

#: Makes a folder with a signed name, with a file in it if asked to, and is killed.
KILLED = """
import os, signal, sys
from hkrunner.sandbox.linux.abandoned import signed_name
place = signed_name(sys.argv[1])
os.mkdir(place)
if sys.argv[2:]:
    open(f"{place}/{sys.argv[2]}", "w").close()
os.kill(os.getpid(), signal.SIGKILL)
"""


def leave(place: Path, *file: str) -> str:
    """Have a process that is killed make a folder there; return its name."""
    before = set(os.listdir(place))
    subprocess.run([sys.executable, "-c", KILLED, f"{place}/test-", *file], check=False)
    (made,) = set(os.listdir(place)) - before
    return made


def test_files_of_a_killed_process_are_removed_and_those_of_a_live_one_stay(tmp_path: Path) -> None:
    leave(tmp_path)
    leave(tmp_path, "data")
    os.mkdir(mine := signed_name(f"{tmp_path}/test-"))
    remove_abandoned(str(tmp_path), "test-")
    assert os.listdir(tmp_path) == [os.path.basename(mine)]


def test_a_folder_with_something_in_it_stays_where_only_empty_ones_may_go(tmp_path: Path) -> None:
    leave(tmp_path)
    full = leave(tmp_path, "data")
    remove_abandoned(str(tmp_path), "test-", only_empty=True)
    assert os.listdir(tmp_path) == [full]


def test_a_process_that_reuses_the_pid_is_not_the_creator(tmp_path: Path) -> None:
    boot, space, pid, started, number = os.path.basename(signed_name("/x/")).split("-")
    earlier = tmp_path / f"test-{boot}-{space}-{pid}-{int(started) - 1}-{number}"
    earlier.mkdir()
    remove_abandoned(str(tmp_path), "test-")
    assert not earlier.exists()


@pytest.mark.parametrize("part", ["boot", "namespace"])
def test_what_was_made_on_another_machine_or_in_another_container_stays(part: str, tmp_path: Path) -> None:
    name = leave(tmp_path)
    _, boot, space, *rest = name.split("-")
    elsewhere = ["0" * 16, space, *rest] if part == "boot" else [boot, "1", *rest]
    (tmp_path / name).rename(moved := tmp_path / "-".join(["test", *elsewhere]))
    remove_abandoned(str(tmp_path), "test-")
    assert moved.exists()


@pytest.mark.parametrize("name", ["test-backup", "test-1-2-3-4-5", "test-4711-0a1b2c3d", "test-", "other"])
def test_a_name_without_a_signature_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    remove_abandoned(str(tmp_path), "test-")
    assert os.listdir(tmp_path) == [name]


def test_where_proc_belongs_to_another_namespace_nothing_is_signed_and_nothing_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = leave(tmp_path)
    monkeypatch.setattr(abandoned.os, "readlink", lambda path: "1")
    assert "-" not in signed_name("")
    remove_abandoned(str(tmp_path), "test-")
    assert os.listdir(tmp_path) == [left]


def test_a_folder_that_cannot_be_read_is_no_error(tmp_path: Path) -> None:
    remove_abandoned(str(tmp_path / "none"), "test-")


@pytest.mark.parametrize("ending", [OutputFile.commit, OutputFile.discard], ids=["commit", "discard"])
def test_the_unfinished_part_of_an_output_file_goes_with_the_next_run(
    ending: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without O_TMPFILE, where it has a name from the start."""
    name = leave(tmp_path)
    (tmp_path / name).rename(tmp_path / f".out.json.{name.removeprefix('test-')}.part")
    (tmp_path / ".out.json.mine.part").touch()
    really = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return really(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    file = OutputFile("out.json", str(tmp_path))
    os.write(file.fd, b"result")
    assert callable(ending)
    ending(file)
    made = ["out.json"] if ending is OutputFile.commit else []
    assert sorted(os.listdir(tmp_path)) == [".out.json.mine.part", *made]


def test_a_folder_is_removed_if_a_signal_comes_right_after_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = os.mkdir

    def make_and_be_ended(path: str, mode: int) -> None:
        make(path, mode)
        raise KeyboardInterrupt

    with contextlib.ExitStack() as stack:
        monkeypatch.setattr(os, "mkdir", make_and_be_ended)
        with pytest.raises(KeyboardInterrupt):
            temporary_folder(str(tmp_path), "hkrunner-code-", stack)
        monkeypatch.undo()
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
