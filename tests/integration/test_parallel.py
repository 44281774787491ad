"""--parallel N: several processes of one algorithm at once; a failure of one does not affect the others."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hkrunner
import pytest
from support.local import ALGORITHMS, run_tasks
from support.programs import HKRUNNER, Program, run, run_hkrunner
from support.status_terminal import last_line, left_on_screen, status_terminal
from support.waiting import wait_until

OBEYS = ALGORITHMS / "obeys.py"


def program(*inputs: Any, args: tuple[str | Path, ...], cwd: Path, entry: Path = OBEYS) -> Program:
    given = [word for value in inputs for word in ("--input", json.dumps(value))]
    return Program([HKRUNNER, "run", entry, *given, *args], cwd=cwd)


def algorithm(cwd: Path, text: str) -> Path:
    path = cwd / "alg.py"
    path.write_text(text)
    return path


# ---- order


def test_results_come_in_the_order_of_the_inputs_whatever_ends_first(tmp_path: Path) -> None:
    inputs = (["wait for file", str(tmp_path / "go")], ["give", 1], ["give", 2], ["give", 3])
    with program(*inputs, args=("--parallel", "2"), cwd=tmp_path) as running:
        running.wait_for_line("✔ t4 done")
        assert running.stdout == []
        (tmp_path / "go").touch()
        assert running.wait() == 0
        assert running.stdout == ['"there"', "1", "2", "3"]


@pytest.mark.parametrize("args", [(), ("--json",), ("--output", "jsonl")])
def test_unordered_results_come_as_the_tasks_end(args: tuple[str, ...], tmp_path: Path) -> None:
    inputs = (["wait for file", str(tmp_path / "go")], ["give", 1], ["give", 2])
    with program(*inputs, args=("--parallel", "2", "--unordered", *args), cwd=tmp_path) as running:
        running.wait_for_line('"output":2' if args else "2", stream="stdout")
        (tmp_path / "go").touch()
        assert running.wait() == 0
        if not args:
            assert running.stdout == ["1", "2", '"there"']
            return
        ended = [told for line in running.stdout if "inputIndex" in (told := json.loads(line))]
        assert [(one["inputIndex"], one["output"]) for one in ended] == [(1, 1), (2, 2), (0, "there")]


def test_json_names_the_input_of_each_result(tmp_path: Path) -> None:
    ran = run_tasks(
        OBEYS, *(["give", number] for number in range(12)), args=("--parallel", "3"), cwd=tmp_path
    )
    assert [(task["inputIndex"], task["output"]) for task in ran.tasks] == [(n, n) for n in range(12)]
    assert len({task["taskId"] for task in ran.tasks}) == 12


@pytest.mark.parametrize("encoding", ["bson", "msgpack"])
def test_the_order_is_the_same_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    args = ("--parallel", "3", "--encoding", encoding)
    ran = run_tasks(OBEYS, *(["give", [number, "é"]] for number in range(7)), args=args, cwd=tmp_path)
    assert ran.outputs == [[number, "é"] for number in range(7)]


# ---- how many


def test_the_tasks_run_at_once_in_processes_of_their_own(tmp_path: Path) -> None:
    code = algorithm(
        tmp_path,
        "import os, time\n"
        "def start(args):\n"
        "    open(args['input'][0], 'w').close()\n"
        "    end = time.monotonic() + 60\n"
        "    while not all(map(os.path.exists, 'abc')) and time.monotonic() < end:\n"
        "        time.sleep(0.005)\n"
        "    return [all(map(os.path.exists, 'abc')), os.getpid()]\n",
    )
    ran = run_tasks(code, "a", "b", "c", args=("--parallel", "3"), cwd=tmp_path)
    assert [found for found, _ in ran.outputs] == [True] * 3
    assert len({pid for _, pid in ran.outputs}) == 3


@pytest.mark.parametrize("count", [1, 2])
def test_there_are_no_more_processes_than_inputs(count: int, tmp_path: Path) -> None:
    inputs = [word for _ in range(count) for word in ("-i", '["give", 1]')]
    ended = run_hkrunner(OBEYS, *inputs, "--parallel", "9", "--output", "jsonl", cwd=tmp_path)
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.status == 0 and [one["event"] for one in events].count("done") == count
    # One that still loads when there is nothing left to do is not waited for.
    assert 1 <= [one["event"] for one in events].count("loaded") <= count


def test_no_inputs_are_no_tasks(tmp_path: Path) -> None:
    ended = run_hkrunner(OBEYS, "--tasks", "-", "--parallel", "4", cwd=tmp_path, input="")
    assert (ended.status, ended.stdout) == (0, "")


def test_a_process_that_still_loads_when_all_is_done_is_not_waited_for(tmp_path: Path) -> None:
    code = algorithm(
        tmp_path,
        "import os, time\n"
        "try:\n"
        "    os.mkdir('first')\n"
        "except FileExistsError:\n"
        "    time.sleep(100)\n"
        "def start(args):\n"
        "    return args['input'][0]\n",
    )
    args = ("--parallel", "3", "--grace", "60")
    ran = run_tasks(code, 1, 2, 3, args=args, cwd=tmp_path, deadline_s=30)
    assert (ran.status, ran.outputs) == (0, [1, 2, 3])


def test_more_processes_than_open_files_allow_are_refused_before_one_is_started(tmp_path: Path) -> None:
    (tmp_path / "tasks").write_text("1\n" * 100)
    words = f"ulimit -n 256; exec '{HKRUNNER}' run '{OBEYS}' --tasks tasks --parallel 100"
    ended = run(["sh", "-c", words], cwd=tmp_path)
    assert (ended.status, ended.stdout) == (2, "")
    assert re.search(r"--parallel 100 needs \d+ open files, and 256 are allowed: ulimit -n \d+", ended.stderr)


# ---- one of them has trouble


#: kind -> (the input that brings it about, the limits for it, exit status and reason as with one process)
TROUBLE: dict[str, tuple[list[Any], tuple[str, ...], int, str]] = {
    "die": (["die"], (), 137, "Crashed"),
    "leave": (["leave", 3], (), 1, "Crashed"),
    "raise": (["raise", "no"], (), 1, "AlgorithmError"),
    "hang": (["hold the GIL"], ("--timeout", "2"), 124, "Timeout"),
    "breach": (["text", 300_000_000], ("--mem", "100Mi"), 137, "MemoryLimit"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_fails_its_own_task_only(trouble: str, tmp_path: Path) -> None:
    bad, limits, status, reason = TROUBLE[trouble]
    inputs = (bad, ["give", 1], bad, ["give", 2], ["give", 3])
    ran = run_tasks(OBEYS, *inputs, args=("--parallel", "2", *limits), cwd=tmp_path)
    assert [task["status"] for task in ran.tasks] == ["failed", "succeed", "failed", "succeed", "succeed"]
    assert ran.outputs == [None, 1, None, 2, 3]
    assert (ran.status, ran.tasks[0]["reason"]) == (status, reason)


def test_code_that_cannot_be_loaded_is_reported_once(tmp_path: Path) -> None:
    ended = run_hkrunner(
        ALGORITHMS / "imports_missing_module.py", *("-i", "1") * 4, "--parallel", "3", cwd=tmp_path
    )
    assert (ended.status, ended.stdout) == (4, "")
    assert ended.stderr.count("✘ IMPORT_FAILED") == 1


def test_one_process_that_cannot_load_leaves_its_tasks_to_the_others(tmp_path: Path) -> None:
    code = algorithm(
        tmp_path,
        "import os\n"
        "try:\n"
        "    os.mkdir('first')\n"
        "except FileExistsError:\n"
        "    open('failed', 'w').close()\n"
        "    raise ImportError('there is room for one') from None\n"
        "def start(args):\n"
        "    import time\n"
        "    while not os.path.exists('failed'):\n"
        "        time.sleep(0.005)\n"
        "    time.sleep(args['input'][0])\n"
        "    return args['input'][0]\n",
    )
    ran = run_tasks(code, 0, 0, 0.5, 0, args=("--parallel", "2"), cwd=tmp_path)
    assert (ran.status, ran.outputs) == (0, [0, 0, 0.5, 0])


# ---- the end


def wait_for_tasks(running: Program, count: int) -> None:
    """Wait until this many tasks have printed that they have begun."""
    wait_until(lambda: running.stderr.count("start") >= count, what=f"{count} tasks at work")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_all_tasks_in_order(number: int, status: int, tmp_path: Path) -> None:
    inputs = (["give", 0], *[["wait for stop", None]] * 2, ["give", 1])
    args = ("--parallel", "2", "--grace", "60")
    with program(*inputs, args=args, cwd=tmp_path) as running:
        wait_for_tasks(running, 3)
        running.send_signal(number)
        assert running.wait() == status
        assert running.stdout == ["0"]
        assert [line for line in running.stderr if line.startswith("exit")] == ["exit {'exitCode': 0}"] * 2
        assert [line[:20] for line in running.stderr if line.startswith("■ stopping")] == [
            "■ stopping: 60 s to "
        ]
        assert sum("stopped in" in line for line in running.stderr) == 2
    records = [json.loads(file.read_text()) for file in tmp_path.glob(".hkrunner/tasks/*/task.json")]
    assert sorted(one["status"] for one in records) == ["stopped", "stopped", "succeed"]


def test_a_second_signal_kills_all_of_them(tmp_path: Path) -> None:
    with program(*[["sleep", None]] * 3, args=("--parallel", "3", "--grace", "60"), cwd=tmp_path) as running:
        wait_for_tasks(running, 3)
        running.send_signal(signal.SIGINT)
        running.wait_for_line("■ stopping")
        running.send_signal(signal.SIGINT)
        assert running.wait() == 130
        assert sum("second interrupt" in line for line in running.stderr) == 3


def test_results_that_waited_for_their_turn_are_printed_when_the_run_is_stopped(tmp_path: Path) -> None:
    inputs = (["wait for stop", None], ["give", 1], ["give", 2], ["wait for stop", None])
    with program(*inputs, args=("--parallel", "2"), cwd=tmp_path) as running:
        wait_for_tasks(running, 4)
        running.send_signal(signal.SIGINT)
        assert running.wait() == 130
        assert running.stdout == ["1", "2"]


def test_a_closed_stdout_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "tasks").write_text('["give", 1]\n' * 3000)
    words = f"'{HKRUNNER}' run '{OBEYS}' --tasks tasks --parallel 3 --no-state -q 2>err | head -n 2"
    ended = run(["bash", "-c", words + "; exit ${PIPESTATUS[0]}"], cwd=tmp_path)
    assert (ended.status, ended.stdout) == (141, "1\n1\n")


# ---- records and the view


def test_each_task_has_its_own_record_logs_and_metrics(tmp_path: Path) -> None:
    code = algorithm(
        tmp_path,
        "import os, time\n"
        "def start(args):\n"
        "    own, other = args['input']\n"
        "    print('I am', own)\n"
        "    open(own, 'w').close()\n"
        "    end = time.monotonic() + 60\n"
        "    while not os.path.exists(other) and time.monotonic() < end:\n"
        "        time.sleep(0.005)\n"
        "    with open(os.environ['ALGO_METRICS_DIR'] + '/mine', 'w') as file:\n"
        "        file.write(own)\n",
    )
    ran = run_tasks(code, ["a", "b"], ["b", "c"], ["c", "a"], args=("--parallel", "3"), cwd=tmp_path)
    assert ran.status == 0
    for name, task in zip("abc", ran.tasks, strict=True):
        assert Path(task["logs"]["stdout"]).read_text() == f"I am {name}\n"
        assert (Path(task["metricsDir"]) / "mine").read_text() == name
        assert json.loads(Path(task["logs"]["stdout"]).with_name("output.json").read_text()) is None


def test_events_of_tasks_at_once_name_their_own_task(tmp_path: Path) -> None:
    code = algorithm(
        tmp_path,
        "import os, time\n"
        "def start(args):\n"
        "    own, other = args['input']\n"
        "    print(own, 'begins')\n"
        "    open(own, 'w').close()\n"
        "    end = time.monotonic() + 60\n"
        "    while not os.path.exists(other) and time.monotonic() < end:\n"
        "        time.sleep(0.005)\n"
        "    print(own, end='', flush=True)\n"
        "    return own\n",
    )
    args = ("--parallel", "2", "--output", "jsonl")
    ended = run_hkrunner(code, "-i", '["a", "b"]', "-i", '["b", "a"]', *args, cwd=tmp_path)
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    of = {one["output"]: one["taskId"] for one in events if one["event"] == "done"}
    assert of.keys() == {"a", "b"}
    for name, task in of.items():
        own = [one for one in events if one.get("taskId") == task]
        assert [one["event"] for one in own if one["event"] != "sample"] == [
            *("initialized", "started", "log", "log", "done"),
        ]
        assert [one["line"] for one in own if one["event"] == "log"] == [f"{name} begins", name]


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    code = algorithm(
        tmp_path,
        "import os, time\n"
        "def start(args):\n"
        "    own, other = args['input']\n"
        "    end = time.monotonic() + 60\n"
        "    for turn in range(20):\n"
        "        print('begin', own, end=' ', flush=True)\n"
        "        open(f'{own}{turn}', 'w').close()\n"
        "        while not os.path.exists(f'{other}{turn}') and time.monotonic() < end:\n"
        "            time.sleep(0.001)\n"
        "        print('end', own, end='\\n' if turn < 19 else '', flush=True)\n",
    )
    ended = run_hkrunner(code, "-i", '["a", "b"]', "-i", '["b", "a"]', "--parallel", "2", cwd=tmp_path)
    printed = [line for line in ended.stderr.splitlines() if line.startswith("begin")]
    assert ended.status == 0 and sorted(printed) == ["begin a end a"] * 20 + ["begin b end b"] * 20


def test_the_terminal_shows_all_tasks_in_one_line(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "def start(args):\n"
        "    block = bytearray(30 << 20)\n"
        "    end = time.monotonic() + 60\n"
        "    while not os.path.exists('go') and time.monotonic() < end:\n"
        "        time.sleep(0.01)\n"
    )
    with status_terminal(tmp_path, *("-i", "1") * 3, "--parallel", "2", "--mem", "256Mi", code=code) as one:

        def shows_both(text: str) -> bool:
            mem = r"[6-9]\d(\.\d)? MiB of 512 MiB"
            line = rf"▶ 2 tasks  0 of 3 done  00:\d\d  cpu \d\.\d\d  mem {mem}"
            return re.match(line, last_line(text)) is not None

        one.wait_until(shows_both, "both tasks, and their memory together")
        (tmp_path / "go").touch()
        status, out = one.end()
        shown = left_on_screen(one.shown)
    assert (status, out) == (0, "null\n" * 3)
    assert "▶" not in shown and shown.count("● limits") == 1


# ---- from Python


def test_run_takes_it_as_a_keyword_and_returns_the_results_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended: list[Any] = []

    def look(event: object) -> None:
        if isinstance(event, hkrunner.TaskResult):
            ended.append(event.output)
            if len(ended) == 2:
                (tmp_path / "go").touch()

    inputs = [["wait for file", str(tmp_path / "go")], ["give", 1], ["give", 2]]
    results = hkrunner.run(OBEYS, inputs, parallel=2, total_mem="1Gi", total_cpu=2, on_event=look)
    assert [one.output for one in results] == ["there", 1, 2] and ended == [1, 2, "there"]
    assert [one.input_index for one in results] == [0, 1, 2]
    assert [one.limit_bytes for one in results] == [512 << 20] * 3


@pytest.mark.parametrize("make", [lambda: {"parallel": 0}, lambda: {"total_mem": "1Gi"}])
def test_run_raises_what_the_command_refuses(make: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(hkrunner.SettingsError, match="--parallel"):
        hkrunner.run(OBEYS, [1], state_dir=tmp_path, **make())
