"""hkrunner.run(on_event=…): what happens, in its order, with the task that it belongs to."""

from __future__ import annotations

from pathlib import Path

import hkrunner
import pytest
from support.local import ALGORITHMS

Heard = hkrunner.Printed | hkrunner.RunEvent | hkrunner.TaskResult


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def algorithm(text: str) -> Path:
    path = Path("alg.py").absolute()
    path.write_text(text)
    return path


def name_of(event: Heard) -> str:
    if isinstance(event, hkrunner.Printed):
        return event.line
    return event.name if isinstance(event, hkrunner.RunEvent) else event.status


def test_events_come_in_the_order_in_which_they_happened(capsys: pytest.CaptureFixture[str]) -> None:
    entry = algorithm(
        "import sys\nprint('loading')\n"
        "def start(args, api):\n"
        "    print('out', args['input'][0])\n"
        "    api.progress(50, 'half')\n"
        "    print('err', file=sys.stderr)\n"
        "    return args['input'][0]\n"
    )
    heard: list[Heard] = []
    results = hkrunner.run(entry, [1, 2], on_event=heard.append)
    seen = [(name_of(one), one.task_id) for one in heard if name_of(one) != "sample"]
    assert seen[:3] == [("loading", None), ("loaded", None), ("connected", None)]
    for task, number in (("t1", 1), ("t2", 2)):
        own = [name for name, of in seen if of == task]
        # Progress comes by a message and lines by pipes: a line printed after it may be heard before it.
        assert own[:2] == ["initialized", "started"] and own[-1] == "succeed"
        assert own.index(f"out {number}") < own.index("progress")
        assert sorted(own[2:-1]) == sorted([f"out {number}", "progress", "err"])
    assert [of for _, of in seen[3:]] == sorted(str(of) for _, of in seen[3:])
    assert [one for one in heard if isinstance(one, hkrunner.TaskResult)] == results
    progress = [one for one in heard if isinstance(one, hkrunner.RunEvent) and one.name == "progress"]
    assert [one.fields for one in progress] == [{"progress": 50, "details": "half"}] * 2
    streams = {one.line: one.stream for one in heard if isinstance(one, hkrunner.Printed)}
    assert streams == {"loading": "stdout", "out 1": "stdout", "out 2": "stdout", "err": "stderr"}
    times = [one.time_s for one in heard if isinstance(one, hkrunner.RunEvent)]
    assert times == sorted(times)
    assert capsys.readouterr() == ("", "")


def test_events_come_while_the_tasks_run() -> None:
    """The second task ends when the listener to its line has made a file."""
    entry = algorithm(
        "import os, time\ndef start(args):\n    print('task', args['input'][0], flush=True)\n"
        "    while args['input'][0] == 2 and not os.path.exists('go'):\n        time.sleep(0.005)\n"
    )
    seen: list[str] = []

    def listen(event: Heard) -> None:
        seen.append(f"{name_of(event)} of {event.task_id}")
        if seen[-1] == "task 2 of t2":
            Path("go").touch()

    hkrunner.run(entry, [1, 2], on_event=listen, timeout=60)
    assert seen.index("task 1 of t1") < seen.index("succeed of t1") < seen.index("task 2 of t2")
    assert seen[-1] == "succeed of t2"


def test_a_kill_is_reported_before_the_result_that_it_leads_to() -> None:
    entry = algorithm("import time\ndef start(args):\n    time.sleep(60)\n")
    heard: list[Heard] = []
    (result,) = hkrunner.run(entry, [1], on_event=heard.append, timeout=0.3, grace=0.1)
    assert result.reason == "Timeout"
    names = [name_of(one) for one in heard if one.task_id == "t1" and name_of(one) != "sample"]
    assert names[-2:] == ["killed", "failed"]
    (kill,) = [one for one in heard if isinstance(one, hkrunner.RunEvent) and one.name == "killed"]
    assert kill.fields["code"] == "TASK_TIMEOUT"


def test_hkrunners_own_messages_are_distinguished_from_the_algorithms_output() -> None:
    entry = algorithm("def start(args):\n    print('✘ hkrunner: all is lost')\n    return 1 / 0\n")
    heard: list[Heard] = []
    hkrunner.run(entry, [1], on_event=heard.append)
    lines = [one for one in heard if isinstance(one, hkrunner.Printed)]
    assert lines[0] == hkrunner.Printed("✘ hkrunner: all is lost", "t1", "stdout")
    assert lines[1].stream is None and "ALGORITHM_ERROR: ZeroDivisionError" in lines[1].line
    assert {one.task_id for one in lines} == {"t1"} and isinstance(heard[-1], hkrunner.TaskResult)


def test_a_listener_that_raises_stops_the_algorithm_in_order() -> None:
    def listen(event: Heard) -> None:
        if isinstance(event, hkrunner.Printed):
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        hkrunner.run(ALGORITHMS / "stops_when_asked.py", [1], on_event=listen)
    assert "work has ended\nexit called" in Path(".hkrunner/tasks/t1/stdout.log").read_text()


def test_an_exception_of_a_listener_while_the_code_loads_is_raised_to_the_caller() -> None:
    def listen(event: Heard) -> None:
        raise LookupError(name_of(event))

    with pytest.raises(LookupError, match=r"^loaded$"):
        hkrunner.run(algorithm("def start(args): ...\n"), [1], on_event=listen)


@pytest.mark.parametrize(
    "variable", ["PYTHONINSPECT=1", "PYTHONWARNINGS=error", "PYTHONDEVMODE=1", "PYTHONOPTIMIZE=2"]
)
def test_a_variable_of_the_callers_interpreter_changes_no_error(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, value = variable.split("=")
    monkeypatch.setenv(name, value)
    with pytest.raises(hkrunner.EntryUnusable, match=r"^IMPORT_FAILED: .*no_such_module"):
        hkrunner.run(algorithm("import no_such_module\n"), [1])
    entry = algorithm("import os\ndef start(args):\n    return os.environ.get(args['input'][0])\n")
    (result,) = hkrunner.run(entry, [name])
    # With it, Python would show the end of the algorithm's process as an error.
    assert result.output == (None if name == "PYTHONINSPECT" else value)
