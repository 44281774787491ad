"""Messages between the processes arrive unchanged; anything else is refused and reported."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hkrunner.sandbox.shared import messages, stream_messages, user_process_messages
from hkrunner.sandbox.shared.channel import ChannelError, Frame, FrameReader
from hkrunner.sandbox.shared.import_messages import DeepImport
from hkrunner.sandbox.shared.message_format import (
    PROTOCOL_VERSION,
    Memfd,
    ProcessMessage,
    body_of,
    decode,
    encode,
)
from hkrunner.sandbox.shared.messages import (
    FROM_CHILD,
    FROM_WARDEN,
    TO_CHILD,
    TO_CONTROL,
    TO_WARDEN,
    Account,
    ApiCall,
    AskUsage,
    Begin,
    BeginAndStart,
    BrokenLimit,
    Done,
    Ended,
    EndedProcessesPeak,
    EndOthers,
    EndProcess,
    Failed,
    Initialize,
    Initialized,
    Kill,
    LimitCpu,
    Loaded,
    LoadFailed,
    Problem,
    ProcessMemory,
    Progress,
    Protection,
    Reply,
    Sample,
    Setup,
    SharedMemoryUse,
    Spawn,
    Spawned,
    Start,
    StillRunning,
    StopReturned,
    StopTask,
    TaskRead,
    UseFolder,
    WatchTree,
)
from hkrunner.sandbox.shared.stream_messages import (
    FROM_SOCKET_PROCESS,
    TO_SOCKET_PROCESS,
    AskStream,
    AttachChild,
    EndStream,
    OpenStream,
    StreamOpened,
    StreamProblem,
    StreamRefused,
    StreamStage,
    StreamStatistics,
    UpdateParents,
    UseStream,
)
from hkrunner.sandbox.shared.user_process_messages import FROM_USER_PROCESS, EndAsked, LastWord

KNOWN = {
    **{**TO_WARDEN, **FROM_WARDEN, **TO_CHILD, **TO_CONTROL, **FROM_CHILD, **FROM_USER_PROCESS},
    **{**TO_SOCKET_PROCESS, **FROM_SOCKET_PROCESS},
}
PROCESS = ProcessMemory(7, "python", 1000)
OBJECT = SharedMemoryUse("/dev/shm/psm_1", 4096)
ACCOUNT = Account(1000, 10, 0.5, False, True, [OBJECT], 1, [], 0)
BROKEN = BrokenLimit("memory", 2, 1.5, 0.25, [PROCESS], [OBJECT], 1, 4096)
MESSAGES = [
    Spawn(
        PROTOCOL_VERSION,
        ["python", "-u"],
        "/",
        {"A": "\udcff"},
        ["tasks"],
        ["tasks"],
        {"pids": 3},
        ["/a"],
        ["/b"],
    ),
    Kill(),
    Kill(stack=True),
    WatchTree(True, False),
    LimitCpu(False),
    AskUsage(3, True),
    EndOthers(),
    Spawned(PROTOCOL_VERSION, 7, "", Protection("limits: none", "cgroup", True)),
    Sample(1, 2, 3, 4, 5.5),
    Sample(1, 2, 3, 4, 5, answers=6),
    Ended(9, True, None, [PROCESS], 30, [], 4096, ACCOUNT),
    Ended(None, False, BROKEN, [], 0, [PROCESS], 0, None),
    Setup(PROTOCOL_VERSION, "/", "m", "start", "/m.py", "json", ["/a"], True, 1 << 28, {"A": "b"}),
    Setup(PROTOCOL_VERSION, "/", "m", "start", "", "bson", []),
    Begin(b'{"command":"initialize"}'),
    Begin(b"a\nb\n", False, "/folder", 1000, {"A": "b"}),
    BeginAndStart(b"a\nb\n", env={"A": "b"}),
    Initialize(b"\xff"),
    UseFolder(),
    UseFolder("/folder", 0, {}),
    Start(),
    StopTask({"forceStop": True}),
    EndProcess({}),
    Reply(b"reply"),
    Loaded(PROTOCOL_VERSION, ["start"], "3.8.18", {"start": {"function": "start"}}),
    LoadFailed("IMPORT_FAILED", "no"),
    TaskRead({"taskId": "1", "jobId": None}),
    Initialized(),
    Done(b"\n"),
    Failed("ERROR", "lone \udcff", "details", True),
    StopReturned(),
    StopReturned("oops"),
    ApiCall(b"call"),
    Progress(50, {"a": [1, None]}),
    EndedProcessesPeak(64 << 20),
    Problem("disk full"),
    AskStream("job", "B", ["A"], ["C", "ü"], True),
    UseStream(b""),
    StreamRefused("no pyzmq"),
    OpenStream("B", ["C"], "msgpack", "*", 9022, 1 << 30, 2.0, False, 0.5),
    AttachChild(b""),
    UpdateParents([{"nodeName": "A", "type": "Add"}]),
    EndStream(1.5),
    StreamOpened(),
    StreamOpened("port 9022: in use"),
    StreamStatistics([{"nodeName": "C", "sent": 1}]),
    StreamStage("quiesced"),
    StreamProblem("3 dropped"),
    StillRunning(["thread Thread-1"], 7),
    DeepImport("alg.py:3 in start"),
    EndAsked(130),
    LastWord(3),
]


def frame_of(kind: int, body: bytes) -> Frame:
    return Frame(kind, 1, body, None, len(body))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_a_message_comes_out_as_it_went_in(message: ProcessMessage) -> None:
    (frame,) = FrameReader().feed(encode(5, message))
    assert frame.task == 5
    found = decode(frame, KNOWN)
    assert found == message and type(found) is type(message)


def test_every_message_has_a_number_of_its_own_and_a_case_above() -> None:
    every = {
        one
        for one in (
            *vars(messages).values(),
            *vars(stream_messages).values(),
            *vars(user_process_messages).values(),
        )
        if isinstance(one, type) and issubclass(one, ProcessMessage) and one.kind
    }
    assert set(KNOWN.values()) == every == {type(one) for one in MESSAGES}
    assert len(KNOWN) == len(every)


@pytest.mark.parametrize("message", [Initialized(), Start(), Begin(b""), UseFolder()], ids=repr)
def test_messages_of_every_task_need_no_json(message: ProcessMessage) -> None:
    assert body_of(message).strip() == b""


def test_a_message_cannot_be_changed_but_replaced() -> None:
    setup = MESSAGES[-2]
    with pytest.raises(AttributeError, match="EndAsked is frozen"):
        setup.status = 3  # type: ignore[attr-defined]
    assert EndAsked(130).replace(status=143) == EndAsked(143)
    assert repr(EndAsked(130)) == "EndAsked(status=130)" and hash(EndAsked(1)) == hash(EndAsked(1))


@pytest.mark.parametrize(
    ("message", "changes", "sentence"),
    [
        (Progress, {"value": "50"}, "Progress.value is str instead of float"),
        (Progress, {"value": True}, "Progress.value is bool instead of float"),
        (Progress, {}, "Progress without value"),
        (Progress, {"value": 1, "color": "red"}, "Progress has no 'color'"),
        (Failed, {"code": 1, "message": ""}, "Failed.code is int instead of str"),
        (Failed, {"code": "", "message": "", "ends": 1}, "Failed.ends is int instead of bool"),
        (TaskRead, {"ids": ["a"]}, "TaskRead.ids is list instead of an object"),
        (TaskRead, {"ids": {"taskId": 1}}, "TaskRead.ids is int instead of str"),
        (UseFolder, {"folder": 3}, "UseFolder.folder is int instead of str"),
        (Ended, {"left": [{"pid": 1}]}, "Ended without status"),
        (EndAsked, {"status": 1.5}, "EndAsked.status is float instead of int"),
        (Progress, {"value": 2**65}, "Progress.value has more than 64 bits"),
        (EndedProcessesPeak, {"rss_bytes": -(2**65)}, "EndedProcessesPeak.rss_bytes has more than 64 bits"),
    ],
    ids=lambda one: None if isinstance(one, type) else str(one),
)
def test_what_is_not_of_the_declared_shape_is_reported(
    message: type[ProcessMessage], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ChannelError, match=f"^frame {message.kind} with a bad body: {sentence}$"):
        decode(frame_of(message.kind, json.dumps(changes).encode()), KNOWN)


@pytest.mark.parametrize(
    "body",
    [b"{oops", b"[]", b"3", b'"text"', b"\xff", b"[" * 100_000, b'{"text": 1' + b"0" * 5000 + b"}", b"null"],
    ids=["cut", "list", "number", "text", "no UTF-8", "deep", "a huge number", "null"],
)
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(ChannelError, match=f"^frame {Problem.kind} with a bad body: "):
        decode(frame_of(Problem.kind, body), FROM_CHILD)


def test_a_record_within_a_message_is_checked_too() -> None:
    body = json.loads(body_of(Ended(9, True, None, [PROCESS], 1, [], 0, ACCOUNT)))
    body["others"][0]["pid"] = "7"
    with pytest.raises(ChannelError, match=r"Ended\.others\.pid is str instead of int"):
        decode(frame_of(Ended.kind, json.dumps(body).encode()), FROM_WARDEN)


@pytest.mark.parametrize("kind", [0, 1, 32, 40, 48, 99, 255])
def test_a_child_may_send_only_messages_of_a_child(kind: int) -> None:
    with pytest.raises(ChannelError, match=f"^frame {kind} with a bad body: a kind nobody sends$"):
        decode(frame_of(kind, b""), FROM_CHILD)


@pytest.mark.parametrize("version", [1, None, "2", PROTOCOL_VERSION + 1])
@pytest.mark.parametrize("message", [Spawn, Spawned, Setup, Loaded])
def test_the_first_message_of_another_version_is_recognized_whatever_its_content(
    message: type[ProcessMessage], version: object
) -> None:
    body = json.dumps({"version": version, "colour": 3}).encode()
    with pytest.raises(
        ChannelError,
        match=rf"instead of {PROTOCOL_VERSION}: was hkrunner replaced while it ran\? Start it again",
    ):
        decode(frame_of(message.kind, body), KNOWN)


def test_a_large_message_has_the_descriptor_that_came_with_it() -> None:
    assert decode(Frame(Done.kind, 1, b"", 9, 5_000_000), FROM_CHILD) == Done(Memfd(9, 5_000_000))


@pytest.mark.parametrize("kind", [Initialized.kind, Problem.kind, 99])
def test_an_unexpected_descriptor_is_closed(kind: int) -> None:
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    with pytest.raises(ChannelError):
        decode(Frame(kind, 1, b"", fd, 10), FROM_CHILD)
    with pytest.raises(OSError):
        os.fstat(fd)
