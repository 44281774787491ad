"""Archives with the algorithm's code: unpacked once, and never outside their folder."""

from __future__ import annotations

import gzip
import io
import os
import random
import stat
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hkrunner.runner.errors import SettingsError
from hkrunner.runner.prepare.code_archive import unpack


def packed(path: Path, *members: tuple[str, Any], kind: str = "gz") -> str:
    """An archive of (name, bytes | ("link", target) | ("hard", target) | "fifo" | "folder")."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                info = zipfile.ZipInfo(name)
                mode = stat.S_IFLNK | 0o777 if isinstance(content, tuple) else 0o755
                info.external_attr = mode << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, content[1] if isinstance(content, tuple) else content)
        return str(path)
    with tarfile.open(path, "w:gz") as opened:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.mode = 0o755
            if isinstance(content, bytes):
                entry.size = len(content)
                opened.addfile(entry, io.BytesIO(content))
                continue
            kinds = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}
            entry.type = kinds.get(content[0] if isinstance(content, tuple) else content, tarfile.DIRTYPE)
            entry.linkname = content[1] if isinstance(content, tuple) else ""
            opened.addfile(entry)
    return str(path)


@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_an_archive_is_unpacked_once_by_its_content(tmp_path: Path, kind: str) -> None:
    archive = packed(tmp_path / "any.name", ("main.py", b"1"), ("a/b/c.txt", b"2"), kind=kind)
    cache = str(tmp_path / "cache")
    folder = unpack(archive, cache)
    assert Path(folder, "main.py").read_bytes() == b"1" and Path(folder, "a/b/c.txt").read_bytes() == b"2"
    Path(folder, "mark").touch()
    os.rename(archive, archive + "2")
    assert unpack(archive + "2", cache) == folder and Path(folder, "mark").exists()
    packed(tmp_path / "other", ("main.py", b"2"), kind=kind)
    assert unpack(str(tmp_path / "other"), cache) != folder
    assert len(os.listdir(cache)) == 2


def test_links_inside_and_modes_are_kept(tmp_path: Path) -> None:
    archive = packed(
        tmp_path / "a",
        ("./", "folder"),
        ("./run.sh", b"#!/bin/sh"),
        ("./sub/", "folder"),
        ("sub/soft", ("link", "../run.sh")),
        ("hard", ("hard", "./run.sh")),
        ("run.sh", b"second"),
    )
    folder = Path(unpack(archive, str(tmp_path / "cache")))
    assert (folder / "run.sh").read_bytes() == (folder / "sub/soft").read_bytes() == b"second"
    assert (folder / "hard").read_bytes() == b"#!/bin/sh" and os.access(folder / "run.sh", os.X_OK)


OUTSIDE = [
    ([("../evil", b"x")], "../evil lies outside"),
    ([("/tmp/evil", b"x")], "/tmp/evil lies outside"),
    ([("a/../../evil", b"x")], "a/../../evil lies outside"),
    ([("link", ("link", "../..")), ("link/evil", b"x")], "link is a link that leads outside"),
    ([("link", ("link", "/tmp")), ("link/evil", b"x")], "link is a link that leads outside"),
    (
        [("d", ("link", ".")), ("l", ("link", "d/..")), ("l/evil", b"x")],
        "l/evil would be written through a link",
    ),
]


@pytest.mark.parametrize(("members", "sentence"), OUTSIDE)
@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_nothing_is_written_outside(tmp_path: Path, kind: str, members: list[Any], sentence: str) -> None:
    archive = packed(tmp_path / "evil.archive", *members, kind=kind)
    with pytest.raises(SettingsError) as caught:
        unpack(archive, str(tmp_path / "a/b/cache"))
    assert str(caught.value).startswith(f"evil.archive: {sentence}")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        *("a", "a/b", "a/b/cache", "evil.archive"),
    ]


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([("pipe", "fifo")], "pipe is a device or a pipe"),
        ([("hard", ("hard", "nowhere"))], "hard is a link to a file that is not in the archive"),
        ([("hard", ("hard", "../../etc/passwd"))], "hard is a link to a file that is not in the archive"),
        ([("a", b"x" * 600), ("b", b"x" * 600)], "it holds more than 1,000 bytes"),
        ([(str(number), b"") for number in range(11)], "it holds more than 10 files"),
    ],
)
def test_entries_that_no_code_archive_has_are_refused(
    tmp_path: Path, members: list[Any], sentence: str
) -> None:
    archive = packed(tmp_path / "odd.tgz", *members)
    with pytest.raises(SettingsError) as caught:
        unpack(archive, str(tmp_path / "cache"), bytes_max=1000, files_max=10)
    assert str(caught.value) == f"odd.tgz: {sentence}"
    assert not os.listdir(tmp_path / "cache")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b"no archive",
            r"x: data.fileExt should be equal to one of the allowed values \(zip,gz\): it is neither",
        ),
        (b"", "x: data.fileExt"),
        (gzip.compress(b"one file"), "x: it is gzip, and holds no tar"),
        (gzip.compress(b"\0" * 20000)[:-9], "x"),
        (b"PK\x03\x04 and no more", "x cannot be unpacked: File is not a zip file"),
        (b"\x1f\x8b\xff\xff\xff\xff", "x"),
    ],
    ids=["text", "empty", "gzip", "gzip cut", "zip cut", "gzip broken"],
)
def test_a_file_that_is_not_an_archive_is_reported(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(SettingsError, match=f"^{sentence}"):
        unpack(str(tmp_path / "x"), str(tmp_path / "cache"))


def test_the_target_of_a_link_is_read_only_as_far_as_a_path_goes(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", ("link", ("link", "x" * 10_000_000)), kind="zip")
    tracemalloc.start()
    try:
        with pytest.raises(SettingsError, match=r"^a\.zip cannot be unpacked to .*: File name too long$"):
            unpack(archive, str(tmp_path / "cache"))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_an_archive_cut_anywhere_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    whole = Path(packed(tmp_path / "whole", ("main.py", random.Random(1).randbytes(3000)))).read_bytes()
    ends = [*range(4, len(whole) - 60, 97), *range(len(whole) - 60, len(whole))]
    for size in ends:
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(SettingsError, match=r"^cut(?: is cut off: its end is missing|: it is gzip)"):
            unpack(str(tmp_path / "cut"), str(tmp_path / "cache"))
    assert not os.listdir(tmp_path / "cache")


def test_an_archive_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    whole = bytearray(Path(packed(tmp_path / "whole", ("main.py", b"1" * 100_000))).read_bytes())
    whole[-6] ^= 1
    (tmp_path / "bad").write_bytes(whole)
    with pytest.raises(SettingsError, match=r"^bad cannot be unpacked: CRC check failed"):
        unpack(str(tmp_path / "bad"), str(tmp_path / "cache"))


def test_bytes_after_the_end_of_an_archive_are_ignored(tmp_path: Path) -> None:
    archive = packed(tmp_path / "more", ("main.py", b"1"))
    with open(archive, "ab") as file:
        file.write(b"no gzip")
    assert os.listdir(unpack(archive, str(tmp_path / "cache"))) == ["main.py"]


@pytest.mark.parametrize("size", [10_240, 2_000_000])
def test_a_cut_within_the_padding_of_a_tar_is_reported(tmp_path: Path, size: int) -> None:
    (tmp_path / "cut").write_bytes(padded(tmp_path, size)[:-9])
    with pytest.raises(SettingsError, match=r"^cut is cut off: its end is missing"):
        unpack(str(tmp_path / "cut"), str(tmp_path / "cache"))


def test_gigabytes_behind_the_end_of_a_tar_are_not_unpacked(tmp_path: Path) -> None:
    """Where the file ends shows how far it was read."""
    (tmp_path / "long").write_bytes(padded(tmp_path, 50_000_000)[:-9])
    assert os.listdir(unpack(str(tmp_path / "long"), str(tmp_path / "cache"))) == ["main.py"]


def padded(folder: Path, size: int) -> bytes:
    """A tar.gz with that many zeros behind the end of the tar."""
    tar = gzip.decompress(Path(packed(folder / "whole", ("main.py", b"1"))).read_bytes())
    return gzip.compress(tar + bytes(size), 1)
