"""Storage v3: hkrunner itself reads inputs from HKube's storage and writes results there."""

from __future__ import annotations

import base64
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import boto3
import msgspec
import psutil
from hkrunner.runner.storage.client import HANGING_MAX
from moto.server import ThreadedMotoServer
from support.bad_peers import BadPeer, endless_reply, half_a_frame
from support.hkube_storage import JOB
from support.local import ALGORITHMS
from support.programs import Program
from support.serving_v3 import serving_v3
from support.waiting import wait_until
from support.worker_wire import MESSAGE_MAX


def test_links_become_values_and_the_result_is_an_object(tmp_path: Path) -> None:
    with serving_v3(tmp_path) as one:
        storage = one.storage
        whole = storage.put("a", {"x": [10, {"y": "deep"}], "n": 0})
        headerless = storage.put("flow", {"items": ["p", "q"]}, with_header=False)
        large = storage.put("large", list(range(300_000)))
        links = {
            "aaaaaaaa": whole,
            "bbbbbbbb": {**whole, "path": "x.1.y"},
            "cccccccc": {**headerless, "path": "items.1"},
            "dddddddd": [{**storage.link(name), "path": "n"} for name in ("a", "b", "a")],
            "eeeeeeee": [{"tasks": ["b", "a"], "path": "n"}, storage.put_bson("c", {"from": "bson"})],
            "ffffffff": large,
            "gggggggg": {**whole, "path": "x.7.none"},
            "hhhhhhhh": storage.write("raw", b"\x01\x08\x01\x03\0\0HK" + b"bytes"),
        }
        storage.put("b", {"n": 1})
        wanted = {
            "aaaaaaaa": {"x": [10, {"y": "deep"}], "n": 0},
            "bbbbbbbb": "deep",
            "cccccccc": "q",
            "dddddddd": [0, 1, 0],
            "eeeeeeee": [1, 0, {"from": "bson"}],
            "ffffffff": list(range(300_000)),
            "gggggggg": None,
            "hhhhhhhh": b"bytes",
        }
        # The second time from memory, where the path counts as well. Nothing is shared with the first task.
        for _ in range(2):
            given = {"nested": [f"$${name}" for name in links], "plain": 5}
            result = one.run(["give", given], links, savePaths=["green", "green.nested", "green.none", "b.x"])
            assert result == {"nested": [wanted[name] for name in links], "plain": 5}
            assert one.storing["metadata"] == {
                "green": {"type": "object"},
                "green.nested": {"type": "array", "size": 8},
            }
            assert "discovery" not in one.storing
        assert one.run(["give", None], savePaths=[]) is None
        assert one.run(["give", 7]) == 7
        assert one.storage.leftovers() == []


def test_what_cannot_be_read_fails_its_task_in_a_sentence(tmp_path: Path) -> None:
    with serving_v3(tmp_path) as one:
        storage = one.storage
        (tmp_path / "outside").write_bytes(b"\x01\x08\x02\x03\0\0HK\x01")
        storage.put("sparse", 1)
        os.truncate(storage.file("sparse"), 10**12)
        storage.file("outside").symlink_to(tmp_path / "outside")
        bad = {
            "no object can be read at": storage.link("missing"),
            "has a header of an unknown form: 02 08": storage.write("h", b"\x02\x08\x02\x03\0\0HK\x01"),
            "names an unknown encoding": storage.write("e", b"\x01\x08\x02\x09\0\0HK\x01"),
            "is not msgpack": storage.write("cut", b"\x01\x08\x02\x03\0\0HK\x93\x01"),
            "(2 bytes) is not msgpack": storage.write("two", b"\x01\x08\x02\x03\0\0HK\x01\x02"),
            "(200,000 bytes) is not msgpack": storage.write(
                "big", b"\x01\x08\x02\x03\0\0HK" + b"\x01" * 200_000
            ),
            "is not bson": storage.write(
                "b", b"\x01\x08\x02\x01\0\0HK" + b"\x20\0\0\0\x10data\0\x01\0\0\0\0"
            ),
            "leads out of the storage: '../../": {"storageInfo": {"path": "../../etc/passwd"}},
            "a link leads out of the storage": storage.link("outside"),
            "is no path of a file: 'a\\x00b'": {"storageInfo": {"path": "a\0b"}},
            "Is a directory": storage.link(""),
            "(0 bytes) is not msgpack": storage.write("empty", b""),
            "(100,001 bytes) is nested too deep": storage.write(
                "deep", b"\x01\x08\x02\x03\0\0HK" + b"\x91" * 100_000 + b"\x01"
            ),
            "(3 bytes) is not msgpack: 'utf-8' codec": storage.write(
                "text", b"\x01\x08\x02\x03\0\0HK\xa2\xff\xfe"
            ),
            "bytes of memory are left": storage.link("sparse"),
            "names neither an object nor a task": {"storageInfo": {}},
            "names neither an object nor tasks": [{"tasks": 7}],
            "a link is int": 5,
        }
        for text, link in bad.items():
            message = one.fail(["give", "$$aaaaaaaa"], {"aaaaaaaa": link})
            assert message.startswith("STORAGE_READ_FAILED: ") and text in message, message
        assert "does not say where it leads" in one.fail(["give", "$$bbbbbbbb"], {"aaaaaaaa": 1})
        assert one.run(["give", 1]) == 1
        (storage.folder / "local-hkube" / JOB).rename(tmp_path / "away")
        (storage.folder / "local-hkube" / JOB).write_text("not a folder")
        one.begin(["give", 2])
        one.client.expect("initialized")
        one.client.start()
        message = one.client.expect("errorMessage")["error"]["message"]
        assert message.startswith("STORAGE_WRITE_FAILED: no object can be written to "), message
        (storage.folder / "local-hkube" / JOB).unlink()
        assert one.run(["give", 3]) == 3


def test_a_storage_that_hangs_or_a_process_that_dies_costs_one_task_its_answer(tmp_path: Path) -> None:
    with serving_v3(tmp_path, timeout_s=7) as one:
        assert one.run(["give", 1]) == 1
        # A FIFO without a writer: opening it never returns, as with a network file system that is gone.
        file = one.storage.file("hangs")
        os.mkfifo(file)
        message = one.fail(["give", "$$aaaaaaaa"], {"aaaaaaaa": one.storage.link("hangs")})
        assert "the storage gave no answer for 7 s" in message
        assert one.run(["give", 2]) == 2
        # A task that is stopped meanwhile is answered at once, and holds up no other.
        one.begin(["give", "$$aaaaaaaa"], {"aaaaaaaa": one.storage.link("hangs")})
        for _ in range(HANGING_MAX + 1):  # more than threads may hang in one process
            one.client.stop()
            one.client.expect("stopped")
            assert one.run(["give", 3]) == 3
            one.begin(["give", "$$aaaaaaaa"], {"aaaaaaaa": one.storage.link("hangs")})
        one.client.stop()
        one.client.expect("stopped")
        assert one.run(["give", 3]) == 3
        (process,) = storage_processes(one.program)
        # A server that does not wait for `initialized` starts the task while its input is read.
        process.suspend()
        one.begin(["give", "early"])
        one.client.start()
        process.resume()
        for command in ("initialized", "storing", "done"):
            one.client.expect(command)
        # A process that has ended is no reason to fail, also where its end was not noticed yet.
        process.suspend()
        one.begin(["give", 4])
        process.kill()
        assert one.finish() == "done"
        (process,) = storage_processes(one.program)
        process.kill()
        assert one.run(["give", 5]) == 5


def test_a_storage_process_that_is_killed_while_a_task_runs_or_writes_costs_nothing(tmp_path: Path) -> None:
    with serving_v3(tmp_path) as one:
        gate = tmp_path / "gate"
        task = one.begin(["wait for file", str(gate)])
        one.client.expect("initialized")
        one.client.start()
        (process,) = storage_processes(one.program)
        process.kill()
        gate.touch()
        assert one.client.expect("storing")["data"]["metadata"] == {"green": {"type": "str"}}
        one.client.expect("done")
        assert one.storage.read(task) == "there"
        was_unfinished = False
        for _ in range(10):  # it may have written all before it is stopped
            if was_unfinished:
                break
            file = one.storage.file(one.begin(["text", 40_000_000]))
            one.client.expect("initialized")
            (process,) = storage_processes(one.program)
            one.client.start()
            wait_until(lambda: one.storage.leftovers() or file.exists(), what="it writes")  # noqa: B023
            process.suspend()
            was_unfinished = bool(one.storage.leftovers())
            process.kill()
            one.client.expect("storing")
            one.client.expect("done")
            assert file.stat().st_size > 40_000_000 and one.storage.leftovers() == []
        assert was_unfinished


def test_a_program_may_return_more_than_the_worker_takes(tmp_path: Path) -> None:
    command = shlex.join([sys.executable, str(ALGORITHMS / "any_program.py")])
    with serving_v3(tmp_path, "--command", command, entry=None) as one:
        task = one.begin(["large", MESSAGE_MAX])
        one.client.expect("initialized")
        one.client.start()
        one.client.expect("storing")
        one.client.expect("done")
        assert one.storage.file(task).stat().st_size > MESSAGE_MAX


def storage_processes(program: Program) -> list[psutil.Process]:
    """Return the storage processes of this hkrunner."""
    children = psutil.Process(program.pid).children()
    return [one for one in children if any("storage/start.py" in word for word in one.cmdline())]


def test_a_peer_that_sends_no_reply_is_passed_over_and_the_storage_read(tmp_path: Path) -> None:
    header = b"\x01\x08\x02\x03\0\0HK"
    replies: dict[str, list[bytes]] = {
        "1 frames": [b""],
        "3 frames": [header, b"\x01", header],
        "a header of an unknown form": [b"no header", b"\x01"],
        "is not msgpack": [header, b"\x93\x01"],
        "no answer from port": [header, b"x" * 3_000_000],
    }
    limits = {
        # So long that a process may be held up in it, and still be answered.
        "DISCOVERY_NETWORK_TIMEOUT": "7000",
        "DISCOVERY_TIMEOUT": "7000",
        "DISCOVERY_MAX_CACHE_SIZE": "1",
    }
    with serving_v3(tmp_path, **limits) as one:

        def run_with(port: int, task: str, value: Any) -> None:
            link = {**one.storage.put(task, value), "taskId": task}
            link["discovery"] = {"host": "127.0.0.1", "port": str(port)}
            assert one.run(["give", "$$aaaaaaaa"], {"aaaaaaaa": link}) == value

        for number, (text, frames) in enumerate(replies.items()):
            with BadPeer(frames) as peer:
                run_with(peer.port, f"p{number}", number)
                assert peer.asked == 1
                one.program.wait_for_line(text)
        with half_a_frame() as port:
            run_with(port, "half", "from the storage")
            one.program.wait_for_line(f"results of 127.0.0.1:{port} are read from the storage")
        with endless_reply() as port:
            run_with(port, "endless", "from the storage, too")
            one.program.wait_for_line(f"port {port} sends more than results can have")


def test_s3_is_read_in_every_form_and_written_with_the_header_in_the_metadata(tmp_path: Path) -> None:
    header = b"\x01\x08\x02\x03\0\0HK"
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        s3 = boto3.client("s3", endpoint_url=endpoint, **keys)
        for bucket in ("local-hkube", "one"):
            s3.create_bucket(Bucket=bucket)
        value = msgspec.msgpack.encode({"a": [1, 2]})
        told = {"header": base64.b64encode(header).decode()}
        s3.put_object(Bucket="local-hkube", Key=f"{JOB}/metadata", Body=value, Metadata=told)
        s3.put_object(Bucket="local-hkube", Key=f"{JOB}/body", Body=header + value)
        s3.put_object(Bucket="local-hkube", Key=f"{JOB}/none", Body=value)
        s3.put_object(Bucket="local-hkube", Key=f"{JOB}/bad", Body=value, Metadata={"header": "x"})
        s3.put_object(Bucket="one", Key=f"local-hkube/{JOB}/none", Body=value)
        env = {"DEFAULT_STORAGE": "s3", "S3_ENDPOINT_URL": endpoint}
        secrets = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
        with serving_v3(tmp_path, **env, **secrets) as one:
            links = {name: one.storage.link(name) for name in ("metadata", "body", "none")}
            one.begin(["give", {"big": "x" * 300_000, "v": [f"$${name}" for name in links]}], links)
            assert one.finish() == "done"
            found = s3.get_object(Bucket="local-hkube", Key=f"{JOB}/task1")
            assert found["Metadata"] == told
            result = msgspec.msgpack.decode(found["Body"].read())
            assert result == {"big": "x" * 300_000, "v": [{"a": [1, 2]}] * 3}
            assert "header of an unknown form: 'x'" in one.fail(["$$a"], {"a": one.storage.link("bad")})
            assert "NoSuchKey" in one.fail(["$$a"], {"a": one.storage.link("gone")})
        with serving_v3(tmp_path, **env, **secrets, S3_BUCKET_NAME="one") as one:
            one.begin(["give", "$$aaaaaaaa"], {"aaaaaaaa": one.storage.link("none")})
            assert one.finish() == "done"
            found = s3.get_object(Bucket="one", Key=f"local-hkube/{JOB}/task1")
            assert msgspec.msgpack.decode(found["Body"].read()) == {"a": [1, 2]}
            server.stop()
            message = one.fail(["give", "$$aaaaaaaa"], {"aaaaaaaa": one.storage.link("other")})
            assert "no object can be read at s3://one/" in message
    finally:
        server.stop()


def test_what_says_where_the_result_is_comes_with_the_answer_on_the_next_connection(tmp_path: Path) -> None:
    with serving_v3(tmp_path) as one:
        flag = tmp_path / "flag"
        one.begin(["wait for file", str(flag)])
        one.client.expect("initialized")
        one.client.start()
        one.program.wait_for_line("start", stream="stdout")
        worker = one.client.worker
        one.client.vanish()
        one.client = worker.accept()
        assert one.client.query == {"storage": "v3", "encoding": "json"}
        flag.touch()
        # `done` alone would be a success without a result.
        assert one.client.expect("storing")["data"]["storageInfo"]["path"].endswith("/task1")
        one.client.expect("done")
        assert one.storage.read("task1") == "there"
