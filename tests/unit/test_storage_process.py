"""The storage process by itself: its memory, its tasks, its files."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import zmq
from hkrunner.runner.io.loop import Loop
from hkrunner.runner.serving.task_storage import TaskStorage
from hkrunner.runner.settings.storage_settings import StorageSettings
from hkrunner.runner.storage import client, input_links, peer_server
from hkrunner.runner.storage.encoded_value import value_of
from hkrunner.runner.storage.errors import StorageError
from hkrunner.runner.storage.file_region import LARGE, Bytes, FileRegion, copied
from hkrunner.runner.storage.folder_store import FolderStore
from hkrunner.runner.storage.job import Abandoned, Job
from hkrunner.runner.storage.message_file import MessageFile
from hkrunner.runner.storage.operations import Encodings, Operations, Stores
from hkrunner.runner.storage.peer_messages import PING, PONG
from hkrunner.runner.storage.peer_server import TASKS_MAX, PeerServer
from hkrunner.runner.storage.requests import Datagram
from hkrunner.runner.storage.start import module_path
from hkrunner.runner.storage.storage_process import StorageProcess
from hkrunner.runner.storage.stored_object import StoredObject
from hkrunner.runner.storage.unfinished_files import UnfinishedFiles
from hkrunner.runner.storage.value_cache import MISSED_MAX, ValueCache
from hkrunner.sandbox.codec import codec
from hkrunner.sandbox.shared.message_format import Memfd
from hkrunner.sandbox.shared.storage_messages import (
    CarryAnswer,
    CarryCall,
    CheckInput,
    FetchInput,
    ForTask,
    InputFetched,
    RequestFailed,
    ResumeTask,
    StorageRequest,
    StoreResult,
)
from support.bad_peers import EndlessSender
from support.hkube_storage import JOB, Storage, header
from support.ports import free_ports, has_ipv6
from support.storage_wire import content, storage_process
from support.waiting import wait_until

JSON = 2


def test_what_is_told_during_a_task_keeps_its_memory(tmp_path: Path) -> None:
    with storage_process(tmp_path) as wire:
        wire.fetch()
        calls = [{"command": "startStream", "data": letter * 200_000} for letter in "ab"]
        answers = [wire.ask(CarryCall, one) for one in calls]
        assert [content(one) for one in answers] == calls
        answers = [wire.ask(CarryAnswer, one) for one in calls]
        assert [content(one) for one in answers] == calls


def test_a_process_whose_thread_for_requests_ends_ends_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    process = object.__new__(StorageProcess)

    def work() -> None:
        raise MemoryError

    process._work = work  # type: ignore[method-assign]
    process._work_or_end()
    assert ended == [1]
    assert "MemoryError" in capsys.readouterr().err


def test_a_storage_process_that_sends_no_message_is_ended_and_costs_its_request_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = (
        "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.send(b'?'); s.recv(9); s.recv(9)"
    )
    start = [sys.executable, "-c", program]
    monkeypatch.setattr(client, "start_command", lambda fd: [*start, str(fd)])
    answers: list[Any] = []
    notes: list[str] = []
    loop = Loop()
    it = client.StorageClient(
        loop, StorageSettings(), ("json",) * 3, on_note=notes.append, on_serving=lambda: None
    )

    def take(answer: Any) -> None:
        answers.append(answer)
        loop.stop()

    it.ask(FetchInput, b"x" * 100_000, take)
    loop.after(20, loop.stop)
    loop.run()
    it.close()
    loop.close()
    [answer] = answers
    assert "has sent what cannot be read, and was killed: frame 63" in answer.text, answer
    assert notes == [answer.text]


def test_a_storage_process_is_not_started_without_memory_for_its_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_memory(*_: object) -> None:
        raise MemoryError("no buffer")

    monkeypatch.setattr(client, "MessageSocket", without_memory)
    monkeypatch.setattr(client.subprocess, "Popen", lambda *_, **more: pytest.fail("started"))
    answers: list[Any] = []
    loop = Loop()
    it = client.StorageClient(
        loop, StorageSettings(), ("json",) * 3, on_note=answers.append, on_serving=lambda: None
    )
    it.ask(FetchInput, b"x", answers.append)
    loop.after(0, loop.stop)
    loop.run()
    it.close()
    loop.close()
    [answer] = answers
    assert answer.text.endswith("cannot be started: no buffer")


def test_a_process_without_the_tasks_beginning_writes_nothing(tmp_path: Path) -> None:
    with storage_process(tmp_path) as wire:
        answer = wire.ask(StoreResult, {"command": "done", "data": 1}).message
        assert isinstance(answer, RequestFailed)
        assert answer.text.endswith("was started again during this task")
        assert list(tmp_path.iterdir()) == []


def test_a_process_that_resumes_a_task_knows_its_place_and_fails_the_calls_of_before(tmp_path: Path) -> None:
    with storage_process(tmp_path) as wire:
        wire.resume(ResumeTask({"jobId": "job1", "taskId": "t1", "nodeName": "n"}, ["n.a"]))
        told = content(wire.ask(StoreResult, {"command": "done", "data": {"a": [1, 2]}}))["data"]
        assert told["storageInfo"]["path"] == "local-hkube/job1/t1"
        assert told["metadata"] == {"n.a": {"type": "array", "size": 2}}
        # Whether the result is wanted was said to the process before.
        done = {"subPipelineId": "p1", "response": {"storageInfo": {"path": "local-hkube/job1/t1"}}}
        answer = content(wire.ask(CarryAnswer, {"command": "subPipelineDone", "data": done}))
        assert answer["command"] == "subPipelineError"
        assert answer["data"]["error"].endswith("was started again during this call")


def test_the_process_finds_packages_where_hkrunner_finds_them() -> None:
    told = ["", "relative", "/its/folder", "/python/lib", "/home/of/user"]
    assert module_path(["/its/folder", "/python/lib"], told, "/its/folder") == [
        "/python/lib",
        "/home/of/user",
    ]


def job_of(what: type[StorageRequest], message: dict[str, Any]) -> Job:
    return Job(what(codec.encode("msgpack", message, name="it", most=None), 1))


def operations_on(objects: Any, results: ValueCache, **more: bool) -> Operations:
    stores = Stores(objects, ValueCache(0), results, None, {"host": "h", "port": "1"})
    return Operations(Encodings(*["msgpack"] * 3), stores, "local", **more)


def begin(operations: Operations, task: str) -> None:
    data = {"jobId": "job1", "taskId": task, "nodeName": "n", "info": {"savePaths": ["n"]}, "input": []}
    operations.perform(job_of(FetchInput, {"command": "initialize", "data": data}), MessageFile())


def test_a_result_that_is_written_when_the_next_task_has_begun_is_not_served(tmp_path: Path) -> None:
    results = ValueCache(1000)

    class SlowStore(FolderStore):
        def write(
            self, path: str, header: bytes, body: Sequence[Bytes], progress: Callable[[], None]
        ) -> None:
            super().write(path, header, body, progress)
            begin(operations, "t2")
            store.is_abandoned = True

    operations = operations_on(SlowStore(str(tmp_path)), results)
    begin(operations, "t1")
    store = job_of(StoreResult, {"command": "done", "data": 1})
    with pytest.raises(Abandoned):
        operations.perform(store, MessageFile())
    operations.finish()
    assert (results.get("t1"), results.get("t2")) == (None, None)


def test_a_batch_of_large_results_takes_few_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert input_links.open_max() == sys.maxsize
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4, 4))
    storage = Storage(tmp_path)
    texts = [f"{number}" * 70_000 for number in range(4)]
    links = {"a": [storage.put(text[0], text) for text in texts]}
    data = {"jobId": "job1", "taskId": "t1", "input": ["$$a"], "storage": links}
    memory, before = MessageFile(), len(os.listdir("/proc/self/fd"))
    opened: list[int] = []

    class CountingStore(FolderStore):
        def open(self, path: str, progress: Callable[[], None]) -> StoredObject:
            opened.append(len(os.listdir("/proc/self/fd")) - before)
            return super().open(path, progress)

    operations = operations_on(CountingStore(str(tmp_path)), ValueCache(0))
    answer = operations.perform(job_of(FetchInput, {"command": "initialize", "data": data}), memory)
    assert isinstance(answer.message, InputFetched)
    told = codec.decode("msgpack", os.pread(answer.fd, answer.message.size, 0))["data"]["input"]
    memory.close()
    assert (told, opened) == ([texts], [0, 1, 2, 2])


def test_large_items_of_a_large_result_of_a_sub_pipeline_are_read(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    path = storage.put("item", "x" * 100_000)["storageInfo"]["path"]
    plain = {"nodeName": "a", "result": "y" * 100_000}
    link = storage.put("result.json", [{"info": {"isBigData": True, "path": path}}, plain])
    operations = operations_on(FolderStore(str(tmp_path)), ValueCache(0))
    begin(operations, "t1")
    call = {"command": "startStoredSubPipeline", "data": {"subPipelineId": "1", "includeResult": True}}
    operations.perform(job_of(CarryCall, call), MessageFile())
    done = {"command": "subPipelineDone", "data": {"subPipelineId": "1", "response": link}}
    memory = MessageFile()
    answer = operations.perform(job_of(CarryAnswer, done), memory)
    assert isinstance(answer.message, ForTask)
    told = codec.decode("msgpack", os.pread(answer.fd, answer.message.size, 0))["data"]["response"]
    memory.close()
    assert told[0]["result"] == "x" * 100_000 and told[1] == plain


def test_a_call_that_the_worker_cannot_take_fails_alone(tmp_path: Path) -> None:
    encodings = Encodings(worker="bson", task="msgpack", storage="bson")
    stores = Stores(FolderStore(str(tmp_path)), ValueCache(0), ValueCache(0), None, None)
    operations = Operations(encodings, stores, "local")
    task = {"jobId": "job1", "taskId": "t1", "input": []}
    wire = codec.encode("bson", {"command": "initialize", "data": task}, name="it", most=None)
    operations.perform(Job(FetchInput(wire, 1)), MessageFile())
    too_large = 2**63
    algorithm = {"execId": "7", "input": [too_large], "includeResult": True}
    pipeline = {"subPipelineId": "8", "flowInput": too_large, "includeResult": True}
    for command, data, failed in (
        ("startAlgorithmExecution", algorithm, "algorithmExecutionError"),
        ("startRawSubPipeline", pipeline, "subPipelineError"),
    ):
        answer = operations.perform(job_of(CarryCall, {"command": command, "data": data}), MessageFile())
        assert isinstance(answer.message, ForTask)
        told = content(answer)
        assert told["command"] == failed and "input" in told["data"]["error"]


def test_a_call_that_is_larger_than_the_worker_takes_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "MESSAGE_LIMIT", 10_000)
    operations = operations_on(FolderStore(str(tmp_path)), ValueCache(0))
    begin(operations, "t1")
    data = {"subPipelineId": "8", "flowInput": {"a": "x" * 10_000}}
    call = job_of(CarryCall, {"command": "startRawSubPipeline", "data": data})
    told = content(operations.perform(call, MessageFile()))
    assert told["command"] == "subPipelineError"
    assert "HKube's worker takes at most 10,000" in told["data"]["error"]


def test_a_program_may_leave_fields_of_a_call_out(tmp_path: Path) -> None:
    operations = operations_on(FolderStore(str(tmp_path)), ValueCache(0))
    begin(operations, "t1")

    def call(command: str, **data: object) -> Any:
        return operations.perform(job_of(CarryCall, {"command": command, "data": data}), MessageFile())

    no_lists: list[dict[str, Any]] = [{"input": "text"}, {"input": {"a": 1}}, {}]
    for data in no_lists:
        told = content(call("startAlgorithmExecution", execId="7", **data))
        assert told["command"] == "algorithmExecutionError" and told["data"]["execId"] == "7"
        assert "data.input should be array" in told["data"]["error"]
    assert content(call("startAlgorithmExecution", execId="8", input=[1]))["data"]["storageInput"]
    without_id: list[dict[str, Any]] = [{"input": [1]}, {"execId": None, "input": [1]}]
    for data in without_id:  # the worker refuses them itself
        assert content(call("startAlgorithmExecution", **data))["data"] == data
    assert content(call("startRawSubPipeline", subPipelineId="9"))["data"] == {"subPipelineId": "9"}
    link = {"storageInfo": {"path": "local-hkube/job1/x"}}
    for command, name in (("algorithmExecutionDone", "execId"), ("subPipelineDone", "subPipelineId")):
        done = {"command": command, "data": {name: "8" if name == "execId" else "9", "response": link}}
        answer = operations.perform(job_of(CarryAnswer, done), MessageFile())
        assert content(answer) == done  # its value is not asked for


def test_an_object_is_checked_wholly_when_the_task_cannot_read_its_input(tmp_path: Path) -> None:
    storage, memory = Storage(tmp_path), MessageFile()
    cut = storage.write("cut", header() + b"\xc6\0\x01\0\0" + b"x" * 65_535)
    links = {"cut": cut, "whole": storage.put("whole", "x" * 70_000)}

    def fetch(*input: object, checks_later: bool = True) -> tuple[Operations, Datagram]:
        used = {name: link for name, link in links.items() if f"$${name}" in repr(input)}
        data = {"input": list(input), "jobId": "job1", "taskId": "t1", "storage": used}
        operations = operations_on(FolderStore(str(tmp_path)), ValueCache(0), checks_later=checks_later)
        answer = operations.perform(job_of(FetchInput, {"command": "initialize", "data": data}), memory)
        assert isinstance(answer.message, InputFetched)
        return operations, answer

    def checked(operations: Operations) -> str:
        found = operations.perform(Job(CheckInput(b"", 2)), MessageFile()).message
        assert isinstance(found, ForTask) and isinstance(found.wire, bytes)
        return found.wire.decode()

    text = r"cut \(65,540 bytes\) is not msgpack: Input data was truncated"
    for later, input in ((False, ["$$cut"]), (True, ["$$cut", 5]), (True, [{"a": ["$$cut"]}, "$$whole"])):
        with pytest.raises(StorageError, match=text):
            fetch(*input, checks_later=later)
    operations, answer = fetch("$$whole", "$$cut")
    assert isinstance(answer.message, InputFetched)
    with pytest.raises(ValueError, match="Input data was truncated"):
        codec.decode("msgpack", os.pread(answer.fd, answer.message.size, 0))
    assert re.search(text, checked(operations))
    assert checked(fetch({"a": [5, "$$whole"]})[0]) == ""
    # What is within a value is seen when it is decoded.
    links["text"] = storage.write("text", header() + b"\xa2\xff\xfe")
    operations, _ = fetch("$$whole", "$$text", 5)
    assert re.search(r"/text \(3 bytes\) is not msgpack: 'utf-8' codec can't decode", checked(operations))
    storage.file("text").unlink()
    assert checked(operations) == ""
    memory.close()


def test_large_bytes_become_text_in_json_and_each_value_is_kept_under_its_own_name(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    stores = Stores(FolderStore(str(tmp_path)), ValueCache(10**6), ValueCache(0), None, None)
    operations = Operations(Encodings("json", "json", "json"), stores, "local")
    links = {
        "aaaaaaaa": storage.write("raw", header(raw=True) + b"b" * 70_000),
        "bbbbbbbb": storage.write("text", header(JSON) + json.dumps("t" * 80_000).encode()),
    }
    data = {"jobId": "job1", "taskId": "t1", "input": ["$$aaaaaaaa", "$$bbbbbbbb"], "storage": links}
    wire = json.dumps({"command": "initialize", "data": data}).encode()
    memory = MessageFile()
    for is_there in (True, True, False):  # read, read and kept, found in memory
        if not is_there:
            shutil.rmtree(tmp_path)
        answer = operations.perform(Job(FetchInput(wire, 1)), memory)
        assert isinstance(answer.message, InputFetched)
        operations.finish()
        told = json.loads(os.pread(answer.fd, answer.message.size, 0))["data"]["input"]
        assert told == [base64.b64encode(b"b" * 70_000).decode(), "t" * 80_000]
    memory.close()


def test_a_value_is_worth_a_copy_when_it_is_needed_again_and_fits() -> None:
    cache = ValueCache(10)
    assert [cache.is_worth_a_copy(name, 10) for name in "abab"] == [False, False, True, True]
    assert [cache.is_worth_a_copy("c", 11) for _ in range(2)] == [False, False]
    for number in range(MISSED_MAX):
        cache.is_worth_a_copy(str(number), 1)
    assert not cache.is_worth_a_copy("a", 1), "it was forgotten"


@pytest.mark.parametrize("size", [0, 10, LARGE, LARGE + 5])
def test_a_copy_has_the_bytes_of_all_pieces(size: int) -> None:
    pieces = [b"begin", memoryview(bytes(range(256)) * (size // 256 + 1))[:size], b"", b"end"]
    before = len(os.listdir("/proc/self/fd"))
    copy = copied(pieces)
    assert bytes(copy) == b"".join(pieces)
    assert len(os.listdir("/proc/self/fd")) == before, "a cache has more values than there may be open files"


def test_a_region_that_finds_no_memory_says_that() -> None:
    with pytest.raises(MemoryError, match="no buffer of"):
        FileRegion(-1, 0, 1 << 60).read(lambda: None)


def test_the_memory_of_inputs_holds_one_message_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(bytes(range(256)) * 2000)
    memory = MessageFile()
    with open(tmp_path / "object", "rb") as file:
        region = FileRegion(file.fileno(), 8, 300_000)
        messages: list[list[Bytes]] = [
            [b"first", b"x" * 400_000, b"", b"end"],
            [b"a", b"b", region, b"c", b"d" * 70_000, b"e"],
            [region[5:100_000]],
            [b"longer", b"y" * 500_000, region],
        ]
        found = []
        for pieces in messages:
            whole = b"".join(bytes(one) for one in pieces)
            fd, size = memory.write(pieces, lambda: None)
            assert (os.pread(fd, size, 0), bytes(memory.view(size))) == (whole, whole)
            found.append(fd)
        assert found[0] == found[1] == found[2], "only a longer message takes new memory"
        os.truncate(tmp_path / "object", 200_000)
        with pytest.raises(OSError, match="it became shorter while it was read"):
            memory.write([region], lambda: None)
        _, size = memory.write(messages[0], lambda: None)
        view = memory.view(size)
        memory.close()
        assert bytes(view) == b"".join(bytes(one) for one in messages[0]), "what is still read stays there"


def test_a_busy_process_hears_that_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hangs")  # opening it never returns
    storage = {"aaaaaaaa": {"storageInfo": {"path": "hangs"}}}
    hanging = {"jobId": "job1", "taskId": "t1", "input": ["$$aaaaaaaa"], "storage": storage}
    with storage_process(tmp_path) as wire:
        wire.fetch()
        for _ in range(2):
            wire.post(FetchInput, {"command": "initialize", "data": hanging})
            wire.cancel()
            wire.fetch("t2")


def test_an_object_that_is_not_written_whole_leaves_nothing(tmp_path: Path) -> None:
    def abandon() -> None:
        raise Abandoned

    store = FolderStore(str(tmp_path))
    for error, progress in ((Abandoned, abandon), (StorageError, partial(os.stat, tmp_path / "missing"))):
        with pytest.raises(error):
            store.write("a/b", b"", [b"x"], progress)  # type: ignore[arg-type]
        assert list((tmp_path / "a").iterdir()) == []
    store.write("a/b", b"", [msgspec.msgpack.encode(1)], lambda: None)
    assert [one.name for one in (tmp_path / "a").iterdir()] == ["b"]


def test_a_file_that_an_earlier_process_has_not_finished_is_removed_with_the_next_one(tmp_path: Path) -> None:
    left, other = tmp_path / "left", tmp_path / "other"
    left.touch()
    with open(os.memfd_create("unfinished"), "w+b") as memory:
        for file in (left, tmp_path / "it was renamed"):
            memory.write(os.fsencode(file).ljust(4096, b"\0"))
        memory.flush()
        with UnfinishedFiles(memory.fileno()).noted(str(other)):
            other.touch()
            assert list(tmp_path.iterdir()) == [other]
        UnfinishedFiles(memory.fileno()).remove_all()
        assert other.exists()
        assert os.fstat(memory.fileno()).st_size == 2 * 4096  # whose place is used again


def test_a_storage_process_leaves_no_file_that_is_not_finished_when_hkrunner_is_gone(tmp_path: Path) -> None:
    with storage_process(tmp_path) as wire:
        wire.fetch()
        wire.post(StoreResult, {"command": "done", "data": "x" * 40_000_000})
        wait_until(lambda: list(tmp_path.rglob("*t1*")), what="it writes")
        wire.close()
        assert wire.process.wait(20) == 0
        assert [one.name for one in tmp_path.rglob("*t1*")] in (["t1"], [])


def test_an_object_that_nobody_waits_for_any_more_stays_not_open(tmp_path: Path) -> None:
    def abandon() -> None:
        raise Abandoned

    (tmp_path / "a").write_bytes(header() + b"\x01")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(Abandoned):
        FolderStore(str(tmp_path)).open("a", abandon)
    assert os.listdir("/proc/self/fd") == before


def test_the_memory_of_a_call_is_closed_though_no_answer_comes() -> None:
    storage = TaskStorage.__new__(TaskStorage)
    asked: list[Any] = []
    storage._client = SimpleNamespace(ask=lambda *args: asked.append(args), waiting=0)  # type: ignore[assignment]
    fd = os.memfd_create("call")
    storage.call(SimpleNamespace(), SimpleNamespace(), Memfd(fd, 0))  # type: ignore[arg-type]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert len(asked) == 1


def test_no_link_leads_to_an_object_outside_of_the_folder(tmp_path: Path) -> None:
    storage, outside = Storage(tmp_path / "storage"), tmp_path / "outside"
    outside.mkdir()
    (outside / "object").write_bytes(header() + b"\x01")
    storage.put("inside", 1)
    folder = storage.file("inside").parent
    (folder / "link").symlink_to(outside / "object")
    (folder / "folder").symlink_to(outside)
    (folder / "neighbour").symlink_to("inside")
    (folder / "result").symlink_to(outside / "result")
    (tmp_path / "seen as").symlink_to(storage.folder)
    store = FolderStore(str(tmp_path / "seen as"))
    path = f"local-hkube/{JOB}"
    for name in ("inside", "neighbour"):
        one = store.open(f"{path}/{name}", lambda: None)
        assert bytes(one.data) == b"\x01"
        one.close()
    for name in ("link", "folder/object"):
        with pytest.raises(StorageError, match=r"a link leads out of the storage: .* is .*outside/object"):
            store.open(f"{path}/{name}", lambda: None)
    for name in ("folder/result", "folder/new/result"):
        with pytest.raises(StorageError, match=r"a link leads out of the storage: .* is .*outside"):
            store.write(f"{path}/{name}", header(), [b"\x01"], lambda: None)
    store.write(f"{path}/result", header(), [b"\x02"], lambda: None)  # the link is replaced
    assert (folder / "result").read_bytes() == header() + b"\x02"
    assert [one.name for one in outside.iterdir()] == ["object"] and storage.leftovers() == []
    (tmp_path / "seen as").unlink()
    (tmp_path / "seen as").symlink_to(tmp_path / "moved")
    storage.folder.rename(tmp_path / "moved")
    store.open(f"{path}/inside", lambda: None).close()


def test_a_result_of_no_bytes_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path))
    store.write("a", header(raw=True), [b""], lambda: None)
    one = store.open("a", lambda: None)
    value = value_of(one.header, one.data, "msgpack", one.name)
    assert value.is_raw and bytes(value.data) == b""
    one.close()


def test_a_result_that_the_disk_does_not_take_leaves_nothing_there(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = FolderStore(str(tmp_path))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match=r"no object can be written to .*/a: File too large"):
            store.write("a", header(), [b"x" * 200_000], lambda: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_request_that_is_none_gets_one_error() -> None:
    server = object.__new__(PeerServer)
    server._settings, server._results = StorageSettings(), ValueCache(0)
    asked: list[tuple[Any, int, bytes]] = [
        ({"tasks": ["t", 7]}, 4, b"notAvailable"),
        ({"tasks": ["t"] * (TASKS_MAX + 1)}, 2, b"100,001 tasks"),
        ({"tasks": []}, 2, b"an empty list of tasks"),
        ({"tasks": "t"}, 2, b"no list of tasks"),
        (5, 2, b"no list of tasks"),
    ]
    for request, frames, text in asked:
        reply = server._reply(msgspec.msgpack.encode(request))
        assert len(reply) == frames and text in bytes(reply[1])
    for garbage in (b"", b"\xc1", b"\x91" * 100_000, b"\x81\xa5tasks\xdd\xff\xff\xff\xff"):
        reply = server._reply(garbage)
        assert len(reply) == 2 and b"unknown" in bytes(reply[1])


def test_a_slow_storage_is_not_given_up_while_bytes_move() -> None:
    process = object.__new__(StorageProcess)
    given_up: list[Job] = []
    job = Job(FetchInput(b"", 1))
    process._settings, process._current = StorageSettings(timeout_s=60), job
    process._abandon = given_up.append  # type: ignore[assignment]
    job.began_at = job.moved_at = time.monotonic() - 1000
    job.progress()
    process._give_up_what_hangs()
    assert given_up == []
    job.moved_at -= 61
    process._give_up_what_hangs()
    assert given_up == [job]


def test_a_message_of_the_worker_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    process = object.__new__(StorageProcess)
    process._operations = operations_on(FolderStore(str(tmp_path)), ValueCache(0))
    cut = msgspec.msgpack.encode({"command": "initialize", "data": {"taskId": "t1"}})[:-1]
    deep = b"\x81\xa4data" + b"\x91" * 100_000 + b"\x01"
    for wire, text in ((cut, "Input data was truncated"), (deep, "nested too deep")):
        answer = process._perform(Job(FetchInput(wire, 1)), MessageFile()).message
        assert isinstance(answer, RequestFailed) and answer.details == ""
        assert answer.text == f"the worker's initialize is no msgpack: {text}"

    def too_deep(*_: object) -> Any:  # also where a value can be decoded
        raise RecursionError

    process._operations.perform = too_deep  # type: ignore[method-assign]
    answer = process._perform(Job(FetchInput(b"", 1)), MessageFile()).message
    assert isinstance(answer, RequestFailed) and answer.text == "a value is nested too deep"


def test_a_peer_that_sends_without_end_loses_its_connection_and_the_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []
    settings = StorageSettings(peer_host="127.0.0.1", peer_port=free_ports())
    monkeypatch.setattr(peer_server, "REQUEST_MAX", 200_000)
    monkeypatch.setattr(peer_server, "CHECK_S", 0.001)
    server = PeerServer(settings, ValueCache(0), notes.append)
    with contextlib.ExitStack() as stack:
        stack.callback(server._context.destroy, 0)
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", settings.peer_port)))
        sender = EndlessSender(sock, b"REQ")

        def is_noted() -> bool:
            server._turn()
            return not sender.goes_on() or bool(notes)

        wait_until(is_noted, deadline_s=60.0, what="the end of the connection")
        assert notes == ["a peer sent more than a request can have: its connection was closed"]
        other = server._context.socket(zmq.REQ)
        other.connect(f"tcp://127.0.0.1:{settings.peer_port}")
        other.send(PING)
        wait_until(lambda: server._turn() or other.poll(0), deadline_s=60.0, what="a reply")
        assert other.recv() == PONG


def test_peers_find_each_other_at_addresses_of_ipv6() -> None:
    host = "::1" if has_ipv6() else "127.0.0.1"
    server = PeerServer(StorageSettings(peer_host=host, peer_port=free_ports()), ValueCache(0), print)
    with contextlib.ExitStack() as stack:
        stack.callback(server._context.destroy, 0)
        other = server._context.socket(zmq.REQ)
        other.ipv6 = True
        shown = f"[{host}]" if ":" in host else host
        other.connect(f"tcp://{shown}:{server.discovery['port']}")
        other.send(PING)
        wait_until(lambda: server._turn() or other.poll(0), deadline_s=60.0, what="a reply")
        assert other.recv() == PONG


@pytest.mark.parametrize("worker", ["json", "msgpack", "bson"])
@pytest.mark.parametrize("task", ["json", "msgpack", "bson"])
def test_numbers_of_one_encoding_become_those_of_another_one(tmp_path: Path, worker: str, task: str) -> None:
    storage = Storage(tmp_path)
    numbers = {"json": [2**63, 10**20, -(10**30)], "msgpack": [2**64 - 1], "bson": [2**62, 1]}[worker]
    stores = Stores(FolderStore(str(tmp_path)), ValueCache(0), ValueCache(0), None, None)
    operations = Operations(Encodings(worker, task, "msgpack"), stores, "local")
    data = {"jobId": JOB, "taskId": "t1", "input": [{"a": numbers}, *numbers, "$$a"]}
    data["storage"] = {"a": storage.put("a", 5)}
    if worker == "json":
        wire = json.dumps({"data": data}).encode()
    else:
        wire = codec.encode(worker, {"data": data}, name="it", most=None)
    answer = operations.perform(Job(FetchInput(wire, 1)), MessageFile()).message
    assert isinstance(answer, InputFetched) and isinstance(answer.wire, bytes)
    first, *others, last = codec.data_of(codec.decode(task, answer.wire))["input"]
    assert first["a"] == others == pytest.approx(numbers) and last == 5
