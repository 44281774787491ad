"""The folders of an isolated child, where there is no room for some of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hkrunner.sandbox.isolation.remedies import not_prevented, remedy_of
from hkrunner.sandbox.parent.private_folders import PrivateFolders


def made() -> set[str]:
    """Return the folders of this process: others run at the same time."""
    places = ("/dev/shm", os.environ["TMPDIR"])
    return {
        f"{folder}/{name}" for folder in places for name in os.listdir(folder) if f"-{os.getpid()}-" in name
    }


def test_a_child_runs_where_no_record_can_be_kept(tmp_path: Path) -> None:
    before = made()
    file = tmp_path / "file"  # no folder can be made there, as on a read-only disk
    file.touch()
    folders = PrivateFolders(os.environ["TMPDIR"], str(file / "boxes"))
    assert folders.records is None and os.path.isdir(folders.temporary)
    folders.remove()
    assert made() == before


def test_nothing_is_left_of_folders_that_cannot_all_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made()
    mkdir = os.mkdir

    def refuse(path: str, mode: int = 0o777) -> None:
        if path.endswith("/root"):
            raise OSError(28, "No space left on device")
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(OSError, match="No space left"):
        PrivateFolders(os.environ["TMPDIR"], str(tmp_path / "boxes"))
    assert made() == before
    assert not os.listdir(tmp_path / "boxes")


@pytest.mark.parametrize(
    ("limits", "needed"),
    [
        ({"user": "0"}, "sysctl user.max_user_namespaces above 0"),
        ({"net": "0", "pid": "0"}, "sysctl user.max_net_namespaces and user.max_pid_namespaces above 0"),
        ({}, "a higher sysctl user.max_user_namespaces, "),
    ],
)
def test_a_machine_that_allows_no_more_namespaces_is_told_its_limit(
    tmp_path: Path, limits: dict[str, str], needed: str
) -> None:
    (tmp_path / "proc/sys/user").mkdir(parents=True)
    for kind in ("user", "mnt", "ipc", "net", "pid"):
        (tmp_path / f"proc/sys/user/max_{kind}_namespaces").write_text(limits.get(kind, "1000") + "\n")
    refused = "full: new namespaces (unshare): No space left on device"
    assert remedy_of(refused, str(tmp_path)).startswith(needed)


@pytest.mark.parametrize(
    ("level", "abi", "network", "words"),
    [
        ("full", 6, True, []),
        ("full", 2, False, []),
        ("full", 2, True, ["abstract Unix sockets"]),
        ("full", 0, False, ["no Landlock as a second barrier"]),
        ("ns", 7, True, ["sees the machine's processes"]),
        ("ns", 5, False, ["sees the machine's processes", "can signal"]),
        (
            "landlock",
            2,
            False,
            ["times of all files", "can signal", "abstract Unix sockets", "can empty files"],
        ),
    ],
)
def test_a_level_says_what_it_does_not_prevent_on_this_kernel(
    level: str, abi: int, network: bool, words: list[str]
) -> None:
    found = not_prevented(level, abi, network=network)
    assert len(found) == len(words) and all(word in one for word, one in zip(words, found, strict=True))
