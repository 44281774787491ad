"""Which files below /dev/shm are a run's: those that a process of its tree is proven to have made."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hkrunner.sandbox.linux import kernel
from hkrunner.sandbox.usage import shared_memory, shared_memory_files, shared_memory_holders
from hkrunner.sandbox.usage.found_files import Bounds
from hkrunner.sandbox.usage.shared_memory import SharedMemory
from support.trees import Tree
from support.waiting import wait_until

MI = 1 << 20

#: Runs ACTION in a process of the tree and says so by a file; what it puts into `held` stays open.
HOLDER = """
import mmap, os, signal, sys, time
signal.alarm(30)
folder, said = sys.argv[1:]
os.chdir(folder)
held = []
ACTION
open(said, "w").close()
time.sleep(20)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in place of /dev/shm, in which no other program makes files."""
    path = Path(f"/dev/shm/hkrunner_unit_{os.getpid()}")
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def shared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedMemory]:
    """As in a container, so that what is not proven to be the run's is reported."""
    monkeypatch.setattr(shared_memory_holders, "others_of", lambda uid: [])
    one = SharedMemory(folders=[str(folder)])
    yield one
    one.close()


def hold(tree: Tree, folder: Path, tmp_path: Path, action: str) -> int:
    """Start a process that does this and holds what it has opened; return its pid once it has done it."""
    said = tmp_path / f"said{time.monotonic_ns()}"
    pid = tree.start(str(folder), str(said), code=HOLDER.replace("ACTION", action))
    wait_until(said.exists, what="the action")
    return pid


def removed_by(shared: SharedMemory) -> tuple[set[str], set[str]]:
    removed, kept = shared.remove_left_over()
    return {Path(one.name).name for one in removed}, {Path(one.name).name for one in kept}


def test_a_name_that_contains_a_pid_of_the_run_proves_nothing(
    folder: Path, shared: SharedMemory, tmp_path: Path
) -> None:
    with Tree() as tree:
        pid = hold(tree, folder, tmp_path, "")
        for number in range(50):
            (folder / f"frame-{number}-{pid}.npy").write_bytes(b"x")
        (folder / f"large-{pid}").write_bytes(b"x" * MI)
        shared.scan([pid], 0.0)
        assert shared.total_bytes == 0
    assert removed_by(shared) == (set(), {f"large-{pid}"})
    assert len(list(folder.iterdir())) == 51


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_large_file_without_proof_is_told_only_where_the_user_has_no_other_processes(
    is_alone: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SharedMemory(folders=[str(folder)])
    (folder / "small").write_bytes(b"x")
    (folder / "large").write_bytes(b"x" * MI)
    ours = [os.getpid(), os.getppid()]
    monkeypatch.setattr(shared_memory_holders, "pids_to_ask", lambda uid: ours if is_alone else [*ours, 2])
    assert removed_by(shared) == (set(), {"large"} if is_alone else set())
    assert len(list(folder.iterdir())) == 2
    shared.close()


def test_a_semaphore_whose_map_shows_a_deleted_temporary_name_is_the_runs(
    folder: Path, shared: SharedMemory, tmp_path: Path
) -> None:
    # As sem_open() of glibc makes it.
    action = """
fd = os.open("sem.AbCdEf", os.O_RDWR | os.O_CREAT | os.O_EXCL)
os.write(fd, bytes(32))
held.append(mmap.mmap(fd, 32))
os.link("sem.AbCdEf", "sem.mine")
os.unlink("sem.AbCdEf")
os.close(fd)
"""
    with Tree() as tree:
        # mmap.mmap keeps a copy of the descriptor, which a semaphore's maker does not.
        pid = hold(tree, folder, tmp_path, f"{action}os.closerange(fd, fd + 8)")
        shared.scan([pid], 0.0)
    assert removed_by(shared) == ({"sem.mine"}, set())


def test_a_process_that_only_reads_a_file_has_not_made_it(
    folder: Path, shared: SharedMemory, tmp_path: Path
) -> None:
    (folder / "a").write_bytes(b"x" * MI)
    (folder / "b").write_bytes(b"x" * MI)
    action = """
held.append(open("a", "rb"))
held.append(mmap.mmap(os.open("b", os.O_RDONLY), 0, prot=mmap.PROT_READ))
"""
    with Tree() as tree:
        shared.scan([hold(tree, folder, tmp_path, action)], 0.0)
        assert shared.total_bytes == 0
    assert removed_by(shared) == (set(), {"a", "b"})


def test_an_existing_file_is_not_the_runs_by_being_written_later(
    folder: Path, shared: SharedMemory, tmp_path: Path
) -> None:
    (folder / "a").write_bytes(b"x" * MI)
    shared.scan([], 0.0)
    with Tree() as tree:
        shared.scan([hold(tree, folder, tmp_path, 'held.append(open("a", "r+b"))')], 0.0)
    assert removed_by(shared) == (set(), {"a"})


def test_in_an_existing_folder_only_new_files_are_the_runs(folder: Path, tmp_path: Path) -> None:
    (folder / "old").mkdir()
    (folder / "old" / "data").write_bytes(b"x" * MI)
    shared = SharedMemory(folders=[str(folder)])
    with Tree() as tree:
        action = 'held.extend([open("old/data", "r+b"), open("old/new", "wb")])\nheld[1].write(bytes(5000))'
        shared.scan([hold(tree, folder, tmp_path, action)], 0.0)
    assert removed_by(shared) == ({"new"}, set())
    assert [path.name for path in (folder / "old").iterdir()] == ["data"]
    shared.close()


def test_a_folder_into_which_the_run_writes_at_once_is_its_own_with_all_in_it(
    folder: Path, shared: SharedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory_files, "FRESH_S", 60.0)  # the process may be stopped before the look
    action = """
os.makedirs("made/deep")
for name in ("made/small", "made/deep/small2"):
    open(name, "w").close()
held.append(open("made/large", "wb"))
held[0].write(bytes(1 << 20))
"""
    with Tree() as tree:
        shared.scan([hold(tree, folder, tmp_path, action)], 0.0)
        shared.scan([], 0.0)
        (folder / "made" / "later").write_bytes(b"x" * MI)  # closed before any look
        shared.scan([], 0.0)
        assert shared.total_bytes >= 2 * MI
    assert removed_by(shared) == ({"small", "small2", "large", "later"}, set())
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("tells_birth", [True, False])
def test_in_a_folder_of_another_program_only_its_own_file_is_the_runs(
    tells_birth: bool, folder: Path, shared: SharedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    born = time.time() - 60 if tells_birth else None
    monkeypatch.setattr(kernel, "birth_s", lambda path: born)
    (folder / "shared").mkdir()
    (folder / "shared" / "theirs").write_bytes(b"x" * MI)
    with Tree() as tree:
        action = 'held.append(open("shared/ours", "wb"))\nheld[0].write(bytes(5000))'
        shared.scan([hold(tree, folder, tmp_path, action)], 0.0)
    assert removed_by(shared) == ({"ours"}, {"shared"})
    assert [path.name for path in (folder / "shared").iterdir()] == ["theirs"]


def test_a_file_of_the_run_that_another_process_still_holds_stays(
    folder: Path, shared: SharedMemory, tmp_path: Path
) -> None:
    with Tree() as tree:
        pid = hold(tree, folder, tmp_path, 'held.append(open("handed_on", "wb"))')
        with (folder / "handed_on").open("rb"):
            shared.scan([pid], 0.0)
            assert removed_by(shared) == (set(), set())
            assert (folder / "handed_on").exists()


def test_a_file_that_is_renamed_stays_the_runs(folder: Path, shared: SharedMemory, tmp_path: Path) -> None:
    with Tree() as tree:
        shared.scan([hold(tree, folder, tmp_path, 'held.append(open("part", "wb"))')], 0.0)
        (folder / "part").rename(folder / "whole")
        shared.scan([], 0.0)
    assert removed_by(shared) == ({"whole"}, set())


def test_a_new_name_makes_a_scan_due_at_once(folder: Path, shared: SharedMemory) -> None:
    shared.scan([], 0.0)
    assert not shared.scan_if_changed([], 0.0)
    (folder / "a").touch()
    wait_until(shared.poll_new_files, what="a new name")
    assert shared.scan_if_changed([], 1000.0)


def test_without_a_watch_on_names_the_regular_scans_find_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(shared_memory_files, "NameWatch", refuse)
    shared = SharedMemory(folders=[str(folder)])
    assert (shared.new_file_fd(0.0), shared.poll_new_files()) == (-1, False)
    with Tree() as tree:
        shared.scan([hold(tree, folder, tmp_path, 'held.append(open("a", "wb"))')], 0.0)
    assert removed_by(shared) == ({"a"}, set())
    shared.close()


def test_a_program_that_makes_files_all_the_time_causes_few_scans(folder: Path) -> None:
    ticks = iter(range(1000))
    shared = SharedMemory(folders=[str(folder)], perf=lambda: next(ticks) * 0.01)
    now = 100.0
    scans = 0
    while shared.new_file_fd(now) >= 0:  # a name appears after each look
        (folder / f"frame{scans}").touch()
        wait_until(shared.poll_new_files, what="a new name")
        assert shared.scan_if_changed([], now)
        scans += 1
    assert scans == 11  # 10 ms each: those of the quiet time before, and one more
    assert shared.wait_again_at(now) > now and not shared.scan_if_changed([], now)
    shared.close()


@pytest.fixture
def reports(folder: Path) -> Iterator[tuple[SharedMemory, int]]:
    """A run whose processes report their folders to the descriptor."""
    reading, writing = os.pipe2(os.O_NONBLOCK)
    one = SharedMemory(folders=[str(folder)], reports=reading)
    yield one, writing
    one.close()
    os.close(writing)


def report(writing: int, folder: Path) -> None:
    facts = folder.stat()
    os.write(writing, b"%d %d %s\0" % (facts.st_dev, facts.st_ino, bytes(folder)))


def test_a_folder_that_was_reported_is_the_runs_with_all_in_it(
    folder: Path, reports: tuple[SharedMemory, int]
) -> None:
    shared, writing = reports
    for name in ("empty", "full", "full/deep", "neighbours"):
        (folder / name).mkdir()
    report(writing, folder / "empty")
    (folder / "full" / "deep" / "data").write_bytes(b"x" * MI)
    report(writing, folder / "full")
    shared.scan([], 0.0)
    assert shared.total_bytes == MI
    assert removed_by(shared) == ({"empty", "data"}, set())
    assert [path.name for path in folder.iterdir()] == ["neighbours"]


def test_a_temporary_folder_that_multiprocessing_has_reported_is_removed(
    reports: tuple[SharedMemory, int], tmp_path: Path
) -> None:
    shared, writing = reports
    for name in ("pymp-ours", "pymp-theirs", "pymp-replaced", "ours"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "listener").touch()
    for name in ("pymp-ours", "pymp-replaced", "ours"):
        report(writing, tmp_path / name)
    (tmp_path / "pymp-replaced").rename(tmp_path / "renamed")
    (tmp_path / "pymp-replaced").mkdir()
    assert removed_by(shared) == (set(), set())
    assert {path.name for path in tmp_path.iterdir()} == {"pymp-theirs", "pymp-replaced", "renamed", "ours"}


def test_a_reported_folder_below_one_that_was_there_is_the_runs_alone(folder: Path) -> None:
    (folder / "old").mkdir()
    reading, writing = os.pipe2(os.O_NONBLOCK)
    shared = SharedMemory(folders=[str(folder)], reports=reading)
    (folder / "old" / "new").mkdir()
    (folder / "old" / "new" / "data").write_bytes(b"x" * MI)
    report(writing, folder / "old" / "new")
    (folder / "old" / "theirs").mkdir()
    report(writing, folder / "old")  # as by a process that lies, or by an inode that is used again
    assert removed_by(shared) == ({"data"}, set())
    assert [path.name for path in (folder / "old").iterdir()] == ["theirs"]
    shared.close()
    os.close(writing)


def test_a_strangers_new_file_stays_though_the_run_has_opened_it_at_once(
    folder: Path, reports: tuple[SharedMemory, int], tmp_path: Path
) -> None:
    shared, writing = reports
    for name in ("theirs", "ours"):
        (folder / name).write_bytes(b"x")
    action = "held += [open('theirs', 'r+b'), open('ours', 'r+b')]; held += [mmap.mmap(held[0].fileno(), 1)]"
    with Tree() as tree:
        pid = hold(tree, folder, tmp_path, action)
        facts = (folder / "theirs").stat()
        os.write(writing, b"%d=%d %d \0" % (pid, facts.st_dev, facts.st_ino))
        shared.scan([pid], 0.0)
    assert removed_by(shared) == ({"ours"}, set())
    assert [path.name for path in folder.iterdir()] == ["theirs"]


def test_what_was_reported_and_is_gone_is_forgotten_and_the_rest_stays_the_runs(
    folder: Path, reports: tuple[SharedMemory, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory_files, "GONE_KEPT", 20)
    shared, writing = reports
    kept = folder / "kept"
    kept.mkdir()
    report(writing, kept)
    for round_number in range(5):
        for number in range(20):
            (one := folder / f"{round_number}-{number}").mkdir()
            report(writing, one)
            one.rmdir()
        shared.scan([], 0.0)
        assert len(shared._files._made) <= 1 + 20
    assert removed_by(shared) == ({"kept"}, set())


def test_a_flood_of_reports_costs_no_scan_more_than_its_share(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "old").mkdir()
    reading, writing = os.pipe2(os.O_NONBLOCK)
    shared = SharedMemory(folders=[str(folder)], reports=reading)
    looked: list[str] = []

    def key_of(path: str) -> tuple[int, int] | None:
        looked.append(path)
        return shared_memory_holders.key_of(path)

    monkeypatch.setattr(shared_memory_files, "key_of", key_of)
    for number in range(3000):
        os.write(writing, b"- - /%d\0" % number)
    shared.poll_new_files()
    assert len(looked) == 3000
    shared.poll_new_files()
    assert len(looked) == 4000, "only the latest ones are looked for again"
    for name in "abcde":
        (folder / "old" / name).write_bytes(b"x" * MI)
        report(writing, folder / "old" / name)
    for count in (2, 4, 5, 5):
        shared._files.scan(dict, (), bounds=Bounds(1000, 2, is_whole=False))
        assert len(shared._files.found) == count
    assert removed_by(shared) == (set("abcde"), set())
    shared.close()
    os.close(writing)


def test_what_a_quick_scan_leaves_out_is_looked_at_before_a_decision(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "QUICK", Bounds(100, 2, is_whole=False))
    (folder / "old").mkdir()
    reading, writing = os.pipe2(os.O_NONBLOCK)
    shared = SharedMemory(folders=[str(folder)], reports=reading)
    files = [folder / "old" / name for name in "abcdef"]
    for one in files:
        one.write_bytes(b"x" * MI)
        report(writing, one)
    shared.scan([], 0.0)
    assert shared.total_bytes == 2 * MI
    assert shared.scan_if_changed([], 0.0, must=True)
    assert shared.total_bytes == 6 * MI
    for one in files:
        one.unlink()
    shared.scan([], 0.0)
    assert shared.total_bytes == 2 * MI, "the rest counts as before"
    assert shared.scan_if_changed([], 0.0, must=True)
    assert shared.total_bytes == 0
    shared.close()
    os.close(writing)


def test_a_scan_reads_no_folder_twice_and_no_more_than_its_bounds(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "old").mkdir()
    reading, writing = os.pipe2(os.O_NONBLOCK)
    shared = SharedMemory(folders=[str(folder)], reports=reading)
    (folder / "new").mkdir()
    report(writing, folder / "new")
    (folder / "new" / "data").write_bytes(b"x" * MI)
    (top := folder / "old" / "a").mkdir()
    nested = [top, *(top / f"{number}" for number in range(3))]
    for one in nested[1:]:
        one.mkdir()
    (nested[-1] / "data").write_bytes(b"x" * MI)
    for one in reversed(nested):
        report(writing, one)
    read: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: read.append(path) or scandir(path))
    shared.scan([], 0.0)
    assert shared.total_bytes == 2 * MI
    assert sorted(read) == sorted(map(str, [folder, folder / "new", *nested]))
    for number in range(30):
        (folder / "new" / f"empty{number}").mkdir()
    monkeypatch.setattr(shared_memory, "QUICK", Bounds(10, 10, is_whole=False))
    read.clear()
    shared.scan([], 0.0)
    assert len(read) <= 10 and shared.total_bytes == 2 * MI, "what was not seen counts as before"
    (nested[-1] / "data").unlink()
    shared.scan([], 0.0)
    assert shared.total_bytes == MI
    assert shared.scan_if_changed([], 0.0, must=True)
    assert shared.total_bytes == MI
    shared.close()
    os.close(writing)


@pytest.mark.parametrize("is_isolated", [True, False])
def test_a_report_of_what_lies_elsewhere_is_ignored(is_isolated: bool, folder: Path, tmp_path: Path) -> None:
    (own := folder / "own").mkdir()
    (elsewhere := Path(f"{folder}_elsewhere")).mkdir()
    reading, writing = os.pipe2(os.O_NONBLOCK)
    folders = [str(folder), str(own)] if is_isolated else [str(folder)]
    shared = SharedMemory(folders=folders, reports=reading)
    theirs = [folder / "theirs", elsewhere / "theirs", tmp_path / "theirs"]
    try:
        for one in theirs[0 if is_isolated else 1 :]:
            one.mkdir()
            (one / "data").write_bytes(b"x" * MI)
            report(writing, one)
            (folder / "link").unlink(missing_ok=True)
            (folder / "link").symlink_to(one.parent)
            facts = one.stat()
            os.write(writing, b"%d %d %s\0" % (facts.st_dev, facts.st_ino, bytes(folder / "link" / one.name)))
        shared.scan([], 0.0)
        assert shared.total_bytes == 0
        shared.remove_left_over()
        assert all((one / "data").exists() for one in theirs if one.exists())
        assert (tmp_path / "theirs" / "data").exists() and (elsewhere / "theirs" / "data").exists()
    finally:
        shared.close()
        os.close(writing)
        shutil.rmtree(elsewhere)


@pytest.mark.parametrize(
    "text",
    [
        *(b"x", b"\0\0\0", b"1 x /\0", b"-1 2 /\0", b"1 2\0", b"\xff" * 4000, b"9" * 4000),
        b"9" * 5000 + b" 1 /x\0",  # Python reads no number of so many digits
        b"1=" + b"9" * 5000 + b" 1 /x\0",
    ],
    ids=range(9),
)
def test_invalid_reports_are_ignored(text: bytes, reports: tuple[SharedMemory, int]) -> None:
    shared, writing = reports
    os.write(writing, text)
    assert not shared.has_unproven
    shared.scan([], 0.0)
    assert removed_by(shared) == (set(), set())


def test_an_empty_folder_that_was_not_reported_is_of_unknown_origin(
    folder: Path, shared: SharedMemory
) -> None:
    (folder / "whose").mkdir()
    shared.scan([], 0.0)
    assert shared.has_unproven
    (folder / "whose").rmdir()
    assert not shared.has_unproven
