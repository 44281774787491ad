"""Served tasks in a journal: whatever ends a process, no answered task is lost, no half-written one shown."""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hkrunner.boards.runs import journal, journal_reader, recorded_output
from hkrunner.boards.runs.event_files import read_scalars
from hkrunner.boards.runs.files import to_json
from hkrunner.boards.runs.history import (
    keep_latest,
    list_tasks,
    remove_tasks,
    repeat_of,
    show_task,
)
from hkrunner.boards.runs.journal import Journal
from hkrunner.boards.runs.journal_format import BEGIN, HEAD, record_pieces
from hkrunner.boards.runs.journal_names import JournalNames
from hkrunner.boards.runs.journal_reader import JournalReader
from hkrunner.boards.runs.layout import RESOURCES, Layout
from hkrunner.boards.runs.resource_series import MEMORY, ResourceSeries
from hkrunner.boards.runs.store import Store
from hkrunner.boards.runs.task_ids import TaskIds
from hkrunner.boards.runs.task_output import LogPart, TaskOutput, read_log
from hkrunner.boards.runs.task_record import TaskRecord
from hkrunner.boards.targets import find_target
from hkrunner.boards.tensorboard.run_view import RunView
from hkrunner.runner.cli.runs import _show
from hkrunner.sandbox.linux import kernel
from hkrunner.sandbox.shared.limits import MI

MUCH = b"x" * 20_000
ANSWER = b'{"command":"done","data":{"sum":3}}'


def make(root: Path, *, keep: int | None = None, volume: Path | None = None) -> Store:
    return Store(
        root,
        metrics_dir=volume,
        logs_ahead=False,
        journal=lambda layout: Journal(layout, "json", keep=keep),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / ".hkrunner"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    store = make(root)
    store.environment()
    yield store
    store.close()


def wire(value: object = (1, 2)) -> bytes:
    return json.dumps({"command": "initialize", "data": {"input": value}}).encode()


def begin(store: Store, task: str = "a", *, at: float = 1.0, later: bool = False) -> TaskRecord:
    """Begin a record; later: as ActiveTask does for a task that may end within a millisecond."""
    extra = {"settings": {"entry": "e.py"}}
    ids = TaskIds(task, "job", "node", "pipeline")
    record = store.open(ids, entry="e.py", started_at=at, extra=extra, wire=wire(), begins_later=later)
    record.begin(later=later)
    return record


def end(record: TaskRecord, status: str = "succeed") -> TaskRecord:
    """End the record as ActiveTask does."""
    if record.metrics.has_any():
        record.need_metrics_folder()
    outcome = {"status": status, "endTime": 2000, "durationMs": 5.0}
    if status != "succeed" or not record.finish_in_journal(to_json(outcome), ANSWER):
        record.finish(outcome, ANSWER)
    return record


def refuse(*_: str) -> None:
    raise OSError(errno.EINVAL, "not on this file system")


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def journals(root: Path) -> list[Path]:
    return sorted((root / "journal").glob("*.journal"))


def told(root: Path) -> list[tuple[str, str]]:
    return [(one.name, one.status) for one in list_tasks(root)]


def test_a_result_with_any_number_and_any_bytes_is_shown(
    store: Store, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(store, "a").finish({"status": "succeed"}, ANSWER.replace(b"3", b"3" * 5000))
    _show(str(root), "a", as_json=True)
    assert json.loads(capsys.readouterr().out)["output"] == {"sum": "3" * 5000}
    begin(store, "b").finish({"status": "succeed"}, ANSWER.replace(b"3", b'"\xff"'))
    _show(str(root), "b", as_json=False)
    assert '  output: {"sum":"\ufffd"}' in capsys.readouterr().out


def test_no_record_of_others_holds_a_task_up(store: Store, root: Path) -> None:
    names = (r"\u0000", r"\ud800", r"a/b", r"..", r"\x")
    begins = [record_pieces(BEGIN, b'{"name":"%b","number":1}' % name.encode()) for name in names]
    end(begin(store, "ours"))
    (root / "journal" / "others-1.journal").write_bytes(b"".join(piece for one in begins for piece in one))
    end(begin(store, "next", at=2.0))
    assert [name for name, _ in told(root)] == ["ours", "next"]


# ---- what a small task leaves


def test_small_tasks_make_no_file_and_no_folder(store: Store, root: Path) -> None:
    end(begin(store, "first"))
    before = files(root)
    for number in range(20):
        record = end(begin(store, f"t{number}", at=2.0 + number))
        assert record.problems == [] and record.metrics_text is None and not record.has_folder
    assert files(root) == before and journals(root)
    assert [one.name for one in list_tasks(root)] == ["first", *(f"t{number}" for number in range(20))]


def test_a_task_of_a_journal_is_shown_repeated_and_removed_as_any_other(store: Store, root: Path) -> None:
    end(begin(store, "a"))
    details = show_task(root, "a")
    assert (details.summary.status, details.summary.duration_ms, details.summary.folder) == (
        "succeed",
        5.0,
        None,
    )
    assert details.facts == details.facts | {
        "taskId": "a",
        "jobId": "job",
        "startTime": 1000,
        "endTime": 2000,
        "metricsDir": "runs/pipeline/node/job/a",
    }
    assert (details.input, details.output, dict(details.files)) == (b"[1,2]", b'{"sum":3}', {})
    repeat = repeat_of(root, "a")
    assert (json.loads(repeat.input), repeat.settings, repeat.entry) == ([1, 2], {"entry": "e.py"}, "e.py")
    part = read_log(root, "a", "stdout")
    assert (part.data, part.is_final) == (b"", True)
    end(begin(store, "b"))
    assert remove_tasks(root, ["a"]).freed_bytes > 0
    assert told(root) == [("b", "succeed")]


def test_a_few_lines_of_output_make_no_file(store: Store, root: Path) -> None:
    end(begin(store, "first"))
    before = files(root)
    record = begin(store)
    record.append("stdout", b"one\n")
    assert read_log(root, "a", "stdout") == LogPart(b"one\n", 4, False), "it is there before the task ends"
    record.append("stderr", b"two\n")
    record.append("stdout", b"three\n")
    end(record)
    assert files(root) == before and not record.has_folder
    assert read_log(root, "a", "stdout") == LogPart(b"one\nthree\n", 10, True)
    assert read_log(root, "a", "stdout", offset=2, limit_bytes=3) == LogPart(b"e\nt", 5, False)
    assert read_log(root, "a", "stderr").data == b"two\n"
    assert read_log(root, "first", "stdout").data == b""
    assert show_task(root, "a").printed == {"stdout": 10, "stderr": 4}


def test_following_a_task_reads_only_what_the_journal_has_got_since(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(200):
        end(begin(store, f"t{number}"))
    record = begin(store, at=2.0)
    output = TaskOutput(root, "a")
    assert output.read("stdout").data == b""
    read: list[int] = []
    pread = os.pread

    def counted(fd: int, size: int, at: int) -> bytes:
        data = pread(fd, size, at)
        read.append(len(data))
        return data

    def looked_up(*_: object) -> None:
        pytest.fail("the other tasks were looked up again")

    monkeypatch.setattr(journal_reader.os, "pread", counted)
    monkeypatch.setattr(journal_reader, "read_json", looked_up)
    record.append("stdout", b"one\n")
    part = output.read("stdout")
    assert part == LogPart(b"one\n", 4, False)
    record.append("stdout", b"two\n")
    end(record)
    assert output.read("stdout", offset=part.next_offset) == LogPart(b"two\n", 8, True)
    # A record, the space that is reserved after it, and the pieces of output.
    assert sum(read) < 2 * (64 * 1024 + 8 * 1024 + 1000)


def test_the_output_of_a_followed_task_goes_on_in_its_folder(store: Store, root: Path) -> None:
    record = begin(store)
    record.append("stdout", b"one\n")
    output = TaskOutput(root, "a")
    assert output.read("stdout") == LogPart(b"one\n", 4, False)
    record.append("stdout", MUCH)
    assert record.has_folder
    assert output.read("stdout", offset=4) == LogPart(MUCH, 4 + len(MUCH), False)
    end(record)
    assert output.read("stdout", offset=4 + len(MUCH)) == LogPart(b"", 4 + len(MUCH), True)


def test_a_task_that_gets_a_folder_later_has_its_output_there(store: Store, root: Path) -> None:
    record = begin(store)
    record.append("stdout", b"before\n")
    assert not record.has_folder
    end(record, "failed")
    record.need_folder()
    assert (root / "tasks/a/stdout.log").read_bytes() == b"before\n"
    assert read_log(root, "a", "stdout") == LogPart(b"before\n", 7, True)
    many = begin(store, "many", at=2.0)
    for number in range(100):
        many.append("stdout", b"%d\n" % number)
    end(many)
    assert read_log(root, "many", "stdout").data == b"".join(b"%d\n" % number for number in range(100))
    assert many.has_folder, "a task prints in this many pieces for long"


def test_much_output_gives_a_task_its_folder_with_everything(store: Store, root: Path) -> None:
    record = begin(store)
    record.append("stdout", b"hello\n")
    record.append("stdout", MUCH)
    folder = root / "tasks" / "a"
    assert json.loads((folder / "task.json").read_bytes())["status"] == "active"
    assert told(root) == [("a", "active")] and read_log(root, "a", "stdout").data == b"hello\n" + MUCH
    end(record)
    names = {path.name for path in folder.iterdir()}
    assert names == {"task.json", "input.json", "output.json", "stdout.log"}
    assert json.loads((folder / "input.json").read_bytes()) == [1, 2]
    assert json.loads((folder / "output.json").read_bytes()) == {"sum": 3}
    assert told(root) == [("a", "succeed")] and (root / "runs/pipeline/node/job/a").is_dir()
    remove_tasks(root, ["a"])
    assert told(root) == [], "its begin in the journal does not come back"


def test_what_goes_wrong_after_the_end_is_recorded_too(store: Store, root: Path) -> None:
    record = end(begin(store))
    record.add_problem("the answer reached no worker")
    assert show_task(root, "a").facts["problems"] == ["the answer reached no worker"]
    assert show_task(root, "a").output == b'{"sum":3}'


def test_a_repeated_id_gets_another_name(store: Store, root: Path) -> None:
    for _ in range(3):
        end(begin(store))
    (root / "tasks" / "b").mkdir()
    end(begin(store, "b"))
    assert sorted(name for name, _ in told(root)) == ["a", "a.2", "a.3", "b.2"]


def test_ids_that_are_no_names_are_found_again(store: Store, root: Path) -> None:
    for text in ("../../x", "ü/\n", "", "x" * 300):
        end(begin(store, text))
        assert show_task(root, text).facts["taskId"] == text


def test_a_task_of_a_millisecond_is_recorded_with_one_write(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(begin(store, "first", later=True))
    written: list[int] = []
    write = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda *args: written.append(args[2]) or write(*args))
    end(begin(store, "short", later=True))
    assert len(written) == 1
    lasting = begin(store, "lasting", at=2.0, later=True)
    assert len(written) == 1 and ("lasting", "active") not in told(root)
    lasting.flush()
    assert len(written) == 2 and ("lasting", "active") in told(root)
    lasting.flush()
    assert len(written) == 2
    end(lasting)
    prints = begin(store, "prints", at=3.0, later=True)
    prints.append("stdout", b"one\n")
    assert len(written) == 4 and read_log(root, "prints", "stdout").data == b"one\n"
    end(prints)
    begin(store, "failed", at=4.0, later=True).need_folder()
    assert told(root)[2:] == [("lasting", "succeed"), ("prints", "succeed"), ("failed", "active")]


# ---- kills and full disks


def test_a_record_is_freed_with_its_task(store: Store) -> None:
    record = begin(store)
    record.append("stdout", b"x")
    is_there = weakref.ref(end(record))
    del record
    gc.disable()
    try:
        end(begin(store, "next", at=2.0))
        assert is_there() is None, "and so are the task's input and result"
    finally:
        gc.enable()


@pytest.mark.parametrize("reader_is_first", [False, True])
def test_records_of_any_size_are_read_without_the_space_reserved_after_them(
    reader_is_first: bool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, read, pread = Layout(root), list[int](), os.pread

    def counted(fd: int, size: int, at: int) -> bytes:
        data = pread(fd, size, at)
        read.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counted)
    writer, reader = Journal(layout, "json"), JournalReader(str(root))
    sizes = [0, 70_000, *range(65_000, 65_600, 7), 250_000, 3]
    for index, size in enumerate(sizes):
        name = writer.claim_name(f"t{index}")
        number = writer.begin("e.py", {}, name, TaskIds(name, "job", "node", "pipeline"), 1, b"x" * size)
        writer.end(number, {"status": "succeed"})
        if reader_is_first:
            reader.refresh()
    reader.refresh()
    assert [(task.name, task.input.size if task.input else 0) for task in reader.tasks().values()] == [
        (f"t{index}", size) for index, size in enumerate(sizes)
    ]
    names = JournalNames(layout, "other")
    assert names.claim("t7", is_first=False) == "t7.2"
    names.release()
    names.close()
    writer.begin("e.py", {}, "last", TaskIds("last", "job", "node", "pipeline"), 1, b"x" * 1_000_000)
    read.clear()
    reader.refresh()
    writer.close()
    assert 1_000_000 < sum(read) < 1_200_000


def test_a_file_cut_at_any_byte_shows_whole_records_only(store: Store, root: Path, tmp_path: Path) -> None:
    end(begin(store, "whole"))
    (path,) = journals(root)
    size_of_first = len(path.read_bytes().rstrip(b"\0"))
    end(begin(store, "last", at=2.0, later=True))
    data = path.read_bytes().rstrip(b"\0")
    copy = tmp_path / "copy"
    (copy / "journal").mkdir(parents=True)
    seen = set()
    for size in range(size_of_first, len(data) + 1):
        for rest in (b"", b"\0" * 64):  # with and without space that was reserved
            (copy / "journal" / path.name).write_bytes(data[:size] + rest)
            first, *last = told(copy)
            assert first == ("whole", "succeed")
            seen.add(tuple(last))
            if last == [("last", "succeed")]:
                assert size == len(data) and show_task(copy, "last").output == b'{"sum":3}'
    assert seen == {(), (("last", "active"),), (("last", "succeed"),)}


_KILLED_AT_A_WRITE = """
import os, sys
from pathlib import Path
from hkrunner.boards.runs.journal import Journal
from hkrunner.boards.runs.store import Store
from hkrunner.boards.runs.task_ids import TaskIds

root, share = sys.argv[1], float(sys.argv[2])
write = os.pwritev
def until_killed(fd, pieces, at):
    global left
    left -= 1
    if left < 0:
        data = b"".join(pieces)
        os.pwrite(fd, data[:int(len(data) * share)], at)
        os.kill(os.getpid(), 9)
    return write(fd, pieces, at)
os.pwritev = until_killed
for kill_at in range(16):
    if os.fork():
        os.wait()
        continue
    left = kill_at
    answered = open(f"{root}/answered", "a", buffering=1)
    store = Store(f"{root}/{kill_at}", logs_ahead=False, journal=lambda layout: Journal(layout, "json"))
    for number in range(6):
        ids = TaskIds(f"t{number}", "job", "node", "pipeline")
        later = number > 3
        record = store.open(
            ids, entry="e", started_at=1.0, wire=b'{"data": {"input": [1]}}', begins_later=later
        )
        record.begin(later=later)
        if number != 4:
            record.append("stdout", b"printed")
        if number == 2:
            record.append("stdout", b"much" * 5000)
        done = b'{"command":"done","data":1}'
        if number % 2 or not record.finish_in_journal(b'{"status":"succeed"}\\n', done):
            record.finish({"status": "succeed"}, done)
        answered.write(f"{kill_at} t{number}\\n")
    os._exit(0)
"""


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_kill_at_every_write_loses_nothing_that_was_answered(tmp_path: Path, share: float) -> None:
    subprocess.run([sys.executable, "-c", _KILLED_AT_A_WRITE, tmp_path, str(share)], check=True)
    answered = (tmp_path / "answered").read_text().splitlines()
    assert len(answered) > 16
    for kill_at in range(16):
        found = dict(told(tmp_path / str(kill_at)))
        for name in (line.split()[1] for line in answered if line.startswith(f"{kill_at} ")):
            assert found.pop(name) == "succeed"
            details = show_task(tmp_path / str(kill_at), name)
            output = details.output or (tmp_path / str(kill_at) / "tasks" / name / "output.json").read_bytes()
            assert output == b"1"
            printed = read_log(tmp_path / str(kill_at), name, "stdout").data
            assert printed == {"t2": b"printed" + b"much" * 5000, "t4": b""}.get(name, b"printed")
        assert set(found.values()) <= {"lost", "succeed"} and len(found) <= 1


def test_a_full_disk_costs_the_value_and_not_the_outcome(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = begin(store)
    write = os.pwritev

    def full(fd: int, pieces: Sequence[bytes], at: int) -> int:
        if ANSWER in pieces:
            os.pwrite(fd, b"".join(pieces)[:-9], at)
            return sum(map(len, pieces)) - 9
        return write(fd, pieces, at)

    def refuse(fd: int, data: bytes, at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwritev", full)
    monkeypatch.setattr(
        os, "pwrite", lambda fd, data, at: (refuse if data[-1:] == b"\n" else pwrite)(fd, data, at)
    )
    record.problems.append("x" * 20_000)  # more than the room that was left for the outcome
    end(record)
    _, sentence = record.problems
    assert "No space left on device (ENOSPC)" in sentence and "the task goes on" in sentence
    monkeypatch.undo()
    end(begin(store, "next", at=2.0))
    assert told(root) == [("a", "succeed"), ("next", "succeed")]
    assert show_task(root, "a").facts["problems"] == [sentence]


def test_a_disk_without_room_for_output_keeps_the_outcome(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_RESERVED_BYTES", 0)
    monkeypatch.setattr(journal, "_RESERVED_TIMES", 0)
    record = begin(store)
    size = journals(root)[0].stat().st_size

    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(os, "mkdir", refuse)
    record.append("stderr", b"lost\n")
    (sentence,) = end(record).problems
    assert "the task cannot be kept" in sentence and "ENOSPC" in sentence
    assert told(root) == [("a", "succeed")] and show_task(root, "a").output == b'{"sum":3}'
    assert journals(root)[0].stat().st_size == size, "the outcome takes the room that was left for it"


def test_output_that_the_journal_cannot_take_is_kept_in_files(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = begin(store)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Journal, "log", refuse)
    record.append("stderr", b"kept\n")
    assert end(record).problems == []
    assert read_log(root, "a", "stderr").data == b"kept\n"


def test_output_that_cannot_be_moved_to_files_stays_where_it_is(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = begin(store)
    record.append("stdout", b"one\n")
    record.append("stderr", b"two\n")

    def refuse(fd: int, data: bytes, at: int = 0) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(recorded_output, "write_all", refuse)
        record.need_folder()
    record.append("stdout", b"three\n")
    (sentence,) = end(record, "failed").problems
    assert "stdout.log cannot be kept" in sentence
    assert told(root) == [("a", "failed")] and not record.has_folder and not os.listdir(root / "tasks")
    assert read_log(root, "a", "stdout").data == b"one\nthree\n"
    assert read_log(root, "a", "stderr").data == b"two\n"


def test_after_a_piece_that_could_not_be_kept_nothing_is_joined_to_the_output(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = begin(store)
    record.append("stdout", b"a" * 10_000)

    def refuse(*_: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Layout, "claim_named", refuse)
    record.append("stdout", b"b" * 10_000)
    record.append("stdout", b"c" * 3_000)
    (sentence,) = end(record).problems
    assert "the task cannot be kept" in sentence
    assert read_log(root, "a", "stdout").data == b"a" * 10_000


def test_a_disk_without_room_for_a_begin_is_one_sentence(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    record = end(begin(store))
    assert len(record.problems) == 1 and "ENOSPC" in record.problems[0]
    monkeypatch.undo()
    end(begin(store, "next"))
    assert told(root) == [("next", "succeed")]


def test_a_file_system_that_reserves_nothing_does(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert end(begin(store)).problems == [] and told(root) == [("a", "succeed")]


def test_a_state_folder_removed_while_serving_comes_back(store: Store, root: Path) -> None:
    end(begin(store))
    shutil.rmtree(root)
    record = begin(store, "b")
    (Path(record.metrics.link) / "events").write_text("of b")
    end(record)
    end(begin(store, "c", at=3.0))
    assert told(root) == [("b", "succeed"), ("c", "succeed")]
    assert (root / "runs/pipeline/node/job/b/events").read_text() == "of b"


def test_a_state_folder_that_cannot_be_made_stops_no_task(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = make(tmp_path / "file" / "state")
    record = begin(store)
    record.append("stdout", b"x")
    (Path(record.metrics.link) / "events").write_text("kept")
    end(record)
    assert len(record.problems) == 2 and not record.has_folder
    store.close()
    shutil.rmtree(Path(record.metrics.link))


# ---- several processes


_MANY_TASKS = """
import sys
from hkrunner.boards.runs import journal_names
from hkrunner.boards.runs.journal import Journal
from hkrunner.boards.runs.store import Store
from hkrunner.boards.runs.task_ids import TaskIds
# Wait for the other however long it is held up: what happens otherwise is another test's.
journal_names.LOCK_S = 60
store = Store(sys.argv[1], logs_ahead=False, journal=lambda layout: Journal(layout, "json", keep=100))
for number in range(100):
    ids = TaskIds(f"t{number}", "j", "n", "p")
    record = store.open(ids, entry="e", started_at=1.0, wire=b"", begins_later=True)
    record.begin(later=True)
    if number % 10 == 0:
        record.append("stdout", b"x" * 20_000)
    record.finish({"status": "succeed"})
"""


def test_two_hkrunners_never_share_a_name(root: Path) -> None:
    command = [sys.executable, "-c", _MANY_TASKS, str(root)]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    found = told(root)
    assert len(found) == 200 == len({name for name, _ in found})
    assert {status for _, status in found} == {"succeed"}
    # A third knows the names of both.
    store = make(root)
    end(begin(store, "t5"))
    store.close()
    assert len(dict(told(root))) == 201


def test_two_that_begin_the_same_task_at_once_are_told_apart(root: Path) -> None:
    both = [make(root), make(root)]
    for store in both:
        store.environment()
    records = [begin(store, at=number) for number, store in enumerate(both)]
    assert [record.name for record in records] == ["a", "a.2"], "the second has seen the first"
    (second,) = [path for path in journals(root) if b'"a.2"' in path.read_bytes()]
    second.write_bytes(second.read_bytes().replace(b'"a.2"', b'"a"  '))
    assert [name for name, _ in told(root)] == ["a", "a.2"]
    for store in both:
        store.close()


def test_two_that_cannot_wait_for_each_other_give_different_names(root: Path) -> None:
    (root / "journal").mkdir(parents=True)
    both = [Journal(Layout(root), "json") for _ in range(2)]
    holder = os.open(root / "journal", os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    names = [one.claim_name("a") for one in both]
    assert len(set(names)) == 2 and all(name.startswith("a.") for name in names)
    for one in both:
        one.release_name()
    os.close(holder)
    # Once the lock is free, names are as usual.
    assert both[0].claim_name("b") == "b"
    for one in both:
        one.release_name()
        one.close()


def test_one_file_of_a_process_with_many_is_open_and_all_its_names_are_known(root: Path) -> None:
    ours, other = make(root), make(root, keep=64)  # sixteen tasks a file
    for number in range(100):
        end(begin(other, f"t{number}", at=number))
        assert end(begin(ours, f"ours{number}", at=number)).problems == []
    assert len(journals(root)) == 8
    assert [begin(ours, f"t{number}").name for number in (3, 98, 99)] == ["t3.2", "t98.2", "t99.2"]
    opened = [path for path in map(_path_of, os.listdir("/proc/self/fd")) if f"{root}/journal/" in path]
    assert len(opened) == 4, "each has its own, and the latest one of the other"
    for store in (ours, other):
        store.close()


def _path_of(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:  # that of the list itself
        return ""


def test_local_tasks_get_no_name_of_a_journal(store: Store, root: Path) -> None:
    for name in ("t7", "t9", "t9", "ta", "t"):
        end(begin(store, name))
    (root / "journal" / "folder").mkdir()
    local = Store(root)
    assert local.next_local_task() == "t10"
    local.close()


# ---- ALGO_METRICS_DIR


def test_metrics_become_the_folder_of_their_task_only(store: Store, root: Path) -> None:
    first = begin(store, "a")
    place = Path(first.metrics.link)
    end(first)
    for name in ("b", "c"):
        record = begin(store, name)
        assert Path(record.metrics.link) == place and list(place.iterdir()) == []
        (place / "events").write_text(name)
        end(record)
        assert record.problems == []
    end(begin(store, "d"))
    runs = {str(path.relative_to(root)): path.read_text() for path in (root / "runs").rglob("events")}
    assert runs == {f"runs/pipeline/node/job/{name}/events": name for name in ("b", "c")}
    assert {path.name for path in (root / "tasks").iterdir()} == {"b", "c"}
    assert list(place.iterdir()) == []


def test_what_a_writer_flushes_after_its_task_is_still_its_own(store: Store, root: Path) -> None:
    record = end(begin(store, "a"))
    assert not record.has_folder
    (Path(record.metrics.link) / "late").write_text("of a")
    end(begin(store, "b", at=2.0))
    assert (root / "runs/pipeline/node/job/a/late").read_text() == "of a"
    assert json.loads((root / "tasks/a/output.json").read_bytes()) == {"sum": 3}
    assert told(root) == [("a", "succeed"), ("b", "succeed")] and not (root / "tasks/b").exists()


def keep_usage(record: TaskRecord) -> None:
    """Have a curve in its record, as a task that has failed at once."""
    record.need_folder()
    series = ResourceSeries(record.metrics.folder, started_at=1.0)
    series.sample(1.0, memory_bytes=MI)
    series.close()


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("resources", ["nothing", "a folder", "a file"])
def test_what_is_written_after_a_task_that_has_only_its_usage_is_its_own(
    root: Path, resources: str, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's may have any name, also that of hkrunner's own folder in it."""
    if not can_exchange:
        monkeypatch.setattr(kernel, "exchange", refuse)
    store = make(root)
    record = begin(store, "a")
    keep_usage(record)
    place, runs = Path(end(record, "failed").metrics.link), root / "runs/pipeline/node/job"
    (place / "late").write_text("of a")
    users = place / RESOURCES
    if resources == "a folder":
        users.mkdir()
        users /= "own"
    if resources != "nothing":
        users.write_text("the user's")
    for name in ("b", "c"):
        record = begin(store, name, at=2.0)
        assert Path(record.metrics.link) == place and list(place.iterdir()) == []
        (place / "events").write_text(name)
        end(record)
        assert record.problems == [] and (runs / name / "events").read_text() == name
    store.close()
    assert (runs / "a/late").read_text() == "of a"
    if resources != "nothing":
        assert (runs / "a" / users.relative_to(place)).read_text() == "the user's"
    if resources != "a file":
        assert read_scalars(runs / "a")[RESOURCES][MEMORY][0].value == 1.0


def test_a_run_folder_that_cannot_be_had_is_no_trouble_for_later_tasks(store: Store, root: Path) -> None:
    record = begin(store, "a")
    record.need_folder()
    (record.metrics_dir / "theirs").write_text("of somebody else")
    place = Path(record.metrics.link)
    (place / "late").write_text("of a")
    end(record)
    assert record.problems and (place / "late").read_text() == "of a", "it stays where its writer has put it"
    for name, found in (("b", ["late"]), ("c", [])):
        record = end(begin(store, name, at=2.0))
        assert record.problems == [] and os.listdir(place) == found
    assert [path.read_text() for path in (root / "runs").rglob("late")] == ["of a"]
    assert (root / "runs/pipeline/node/job/a/theirs").exists()


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("has_usage", [True, False])
def test_a_writer_never_meets_a_moment_without_the_folder(
    root: Path, has_usage: bool, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(kernel, "exchange", refuse)
    store = make(root)
    place = Path(store.environment()["ALGO_METRICS_DIR"])
    errors: list[OSError] = []
    is_over = threading.Event()
    counts = {"written": 0}

    def write() -> None:
        while not is_over.is_set():
            try:
                with open(place / "events", "a") as file:
                    file.write("x")
                counts["written"] += 1
                os.stat(place / "events")
            except OSError as error:
                errors.append(error)

    for number in range(20):
        record = begin(store, f"t{number}")
        is_over.clear()
        writer = threading.Thread(target=write)
        writer.start()
        before = counts["written"]
        while counts["written"] == before:
            pass
        if has_usage:
            keep_usage(record)
        record.need_metrics_folder()
        is_over.set()
        writer.join()
        end(record)
        assert record.problems == []
    store.close()
    found = [path.read_text() for path in (root / "runs").rglob("events")]
    assert len(found) == 20
    if can_exchange:
        assert errors == [] and sum(map(len, found)) == counts["written"]


def test_metrics_of_a_killed_hkrunner_are_those_of_its_task(root: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from hkrunner.boards.runs.journal import Journal\n"
        "from hkrunner.boards.runs.store import Store; from hkrunner.boards.runs.task_ids import TaskIds\n"
        "store = Store(sys.argv[1], journal=lambda layout: Journal(layout, 'json'))\n"
        "ids = TaskIds('a', 'job', 'node', 'pipeline')\n"
        "record = store.open(ids, entry='e', started_at=1.0, wire=b'')\n"
        "(Path(record.metrics.link) / 'events').write_text('of a')\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, root], check=False)
    assert told(root) == [("a", "lost")]
    store = make(root)
    record = begin(store, "b")
    assert list(Path(record.metrics.link).iterdir()) == []
    assert (root / "runs/pipeline/node/job/a/events").read_text() == "of a"
    end(record)
    store.close()
    remove_tasks(root, ["a"])
    assert not (root / "runs/pipeline/node/job/a").exists()


def test_a_task_that_could_get_no_folder_for_metrics_has_one_of_its_own_in_its_record(
    root: Path, tmp_path: Path
) -> None:
    store = make(root, volume=tmp_path / "metrics")
    root.mkdir(exist_ok=True)
    (root / "current").write_text("no folder")
    record = begin(store)
    assert record.metrics_dir == root / "runs/pipeline/node/job/a"
    assert record.problems and not record.metrics.has_any()
    end(record)
    store.close()


def test_the_clusters_folder_is_given_to_the_task_that_wrote_there(root: Path, tmp_path: Path) -> None:
    volume = tmp_path / "metrics"
    store = make(root, volume=volume)
    end(begin(store, "first"))
    before = files(root)
    for name in ("a", "b", "c"):
        record = begin(store, name)
        assert Path(record.metrics.link) == volume and list(volume.iterdir()) == []
        if name == "b":
            (volume / "events").write_text("of b")
        end(record)
        assert record.problems == []
        if name != "b":
            continue
        # The worker uploads now: nothing may have moved yet, and a board sees it.
        assert (volume / "events").exists() and files(root) > before
        assert (record.metrics_dir / "metrics" / "events").read_text() == "of b"
    assert (root / "runs/pipeline/node/job/b/metrics/events").read_text() == "of b"
    assert {path.name for path in (root / "tasks").iterdir()} == {"b"}
    (volume / "late").write_text("of c")
    end(begin(store, "d"))
    assert (root / "runs/pipeline/node/job/c/metrics/late").read_text() == "of c"
    store.close()


@pytest.mark.parametrize("earlier", [(), ("earlier",)])
def test_what_a_killed_hkrunner_left_in_the_clusters_folder_is_its_tasks(
    root: Path, tmp_path: Path, earlier: tuple[str, ...]
) -> None:
    volume = tmp_path / "metrics"
    program = (
        "import os, sys; from hkrunner.boards.runs.journal import Journal; from pathlib import Path\n"
        "from hkrunner.boards.runs.store import Store; from hkrunner.boards.runs.task_ids import TaskIds\n"
        "journal = lambda layout: Journal(layout, 'json')\n"
        "store = Store(sys.argv[1], metrics_dir=sys.argv[2], journal=journal)\n"
        "for name in [*sys.argv[3:], 'a']:\n"
        "    ids = TaskIds(name, 'job', 'node', 'pipeline')\n"
        "    record = store.open(ids, entry='e', started_at=1.0, wire=b'')\n"
        "    Path(sys.argv[2], 'events').write_text(name)\n"
        "    if name == 'a': os.kill(os.getpid(), 9)\n"
        "    record.need_metrics_folder()\n"
        "    record.finish({'status': 'succeed'})\n"
    )
    subprocess.run([sys.executable, "-c", program, root, volume, *earlier], check=False)
    store = make(root, volume=volume)
    record = begin(store, "b")
    assert list(volume.iterdir()) == []
    for name in ("a", *earlier):
        assert (root / "runs/pipeline/node/job" / name / "metrics/events").read_text() == name
    end(record)
    store.close()


# ---- removal


def test_files_of_forgotten_tasks_are_removed_whole(root: Path) -> None:
    store = make(root, keep=64)  # sixteen tasks a file
    for number in range(200):
        end(begin(store, f"t{number}", at=number))
    assert len(journals(root)) == 13
    store.forget_before(190)
    assert [name for name, _ in told(root)] == [f"t{number}" for number in range(189, 200)]
    assert len(journals(root)) == 2
    end(begin(store, "next", at=500))
    store.close()
    assert len(told(root)) == 12


def test_only_the_latest_of_both_kinds_are_kept(root: Path) -> None:
    store = make(root)
    for number in range(10):
        record = begin(store, f"t{number}", at=number)
        if number % 2:
            record.append("stdout", MUCH)
        end(record)
    running = begin(store, "t99", at=0.5)
    keep_latest(root, 3)
    assert [name for name, _ in told(root)] == ["t99", "t7", "t8", "t9"]
    end(running)
    store.close()
    keep_latest(root, 0)
    assert told(root) == []


def test_a_journal_of_a_gone_process_goes_with_its_last_task(root: Path) -> None:
    subprocess.run([sys.executable, "-c", _MANY_TASKS, str(root)], check=True)
    assert len(journals(root)) == 4
    keep_latest(root, 0)
    assert journals(root) == [] and (root / "journal" / "removed").read_bytes() == b""
    assert told(root) == []


# ---- boards


def test_a_board_shows_tasks_of_a_journal_once_they_have_ended(store: Store, root: Path) -> None:
    view = RunView(
        str(root / "boards" / "view-x"), root=str(root), log_dir=str(root / "runs"), max_files=1000
    )

    def shown() -> list[str]:
        return sorted(name.split()[0] for name in view.shown().keys)

    end(begin(store, "a"))
    running = begin(store, "b")
    view.make(4)
    assert shown() == ["a"]
    running.append("stdout", MUCH)
    view.refresh()
    assert shown() == ["a", "b"]
    end(running)
    end(begin(store, "c"))
    view.refresh()
    assert shown() == ["a", "b", "c"]
    assert all(task.outcome is not None for task in view.shown().tasks.values())
    assert [path.resolve().name for path in Path(view.folder).iterdir()] == ["b"]
    assert {path.name for path in (root / "tasks").iterdir()} == {"b"}
    for word, kind in (("a", "task"), ("job", "batch")):
        assert find_target(root, word).type == kind
    remove_tasks(root, ["a"])
    view.refresh()
    assert shown() == ["b", "c"]
    view.remove()


def test_processes_that_begin_in_the_same_second_have_journals_of_their_own(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hkrunner.boards.runs.journal.local_job_id", lambda now_s: "20261130-120000-abcd")
    stores = [make(root), make(root)]
    records = [end(begin(store)) for store in stores]
    for store in stores:
        store.close()
    assert [record.problems for record in records] == [[], []]
    assert told(root) == [("a", "succeed"), ("a.2", "succeed")]


@pytest.mark.parametrize("refuses", [False, True])
def test_the_last_task_of_a_file_has_the_next_file_made_for_which_no_task_waits_then(
    refuses: bool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(root, keep=64)  # sixteen tasks a file
    for number in range(16):
        record = end(begin(store, f"t{number}"))
        assert len(journals(root)) == 1
        if refuses and number == 15:
            monkeypatch.setattr(Journal, "_begin_file", refuse)
        store.prepare_next()
    monkeypatch.undo()
    assert len(journals(root)) == (1 if refuses else 2)
    record.add_problem("seen late")
    end(begin(store, "next"))
    store.close()
    assert [name for name, _ in told(root)] == [*(f"t{number}" for number in range(16)), "next"]
    assert show_task(root, "t15").facts["problems"] == ["seen late"]
    assert len(journals(root)) == 2


@pytest.mark.parametrize("also_for_prepare", [False, True])
def test_a_begin_whose_end_could_not_be_written_stays_in_its_file(
    also_for_prepare: bool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(root, keep=64)  # sixteen tasks a file
    for number in range(15):
        end(begin(store, f"t{number}"))
    record = begin(store, "t15", later=True)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as refused:
        refused.setattr(os, "pwritev", full)
        assert "ENOSPC" in end(record).problems[0]
        if also_for_prepare:
            store.prepare_next()
    if not also_for_prepare:
        store.prepare_next()
    assert end(begin(store, "next")).problems == []
    store.close()
    assert [path.read_bytes()[:1] for path in journals(root)] == [HEAD, HEAD]
    assert show_task(root, "t15").facts["entry"] == "e.py"
