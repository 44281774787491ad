"""Local runs from the command line: inputs, results, exit statuses, and what 200 tasks cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.local import ALGORITHMS, run_tasks
from support.programs import HKRUNNER, Program, run, run_hkrunner, serving

ADDS = ALGORITHMS / "adds.py"
BACK = ALGORITHMS / "gives_its_input_back.py"
WHO = ALGORITHMS / "says_who_it_is.py"


def test_one_input_gives_one_result_on_stdout_and_nothing_else(tmp_path: Path) -> None:
    ended = run_hkrunner("--entry", ADDS, "--input", "[1, 2, 3]", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, "6\n")
    assert "✔ t1 done in" in ended.stderr and ".hkrunner/tasks/t1" in ended.stderr


def test_results_come_in_the_order_of_the_inputs(tmp_path: Path) -> None:
    ended = run_hkrunner("-e", ADDS, *("-i", "[1]") * 2, "-i", "[2]", "-i", "[3, 4]", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, "1\n1\n2\n7\n")


#: Inputs as they are written, and what start() gets.
GIVEN: list[tuple[str, Any]] = [
    ("[]", []),
    ("5", [5]),
    ('{"a": null}', [{"a": None}]),
    ('"text"', ["text"]),
    ("null", [None]),
    ('[1.5, true, "ü ✔ 😀"]', [1.5, True, "ü ✔ 😀"]),
    (" \n[ 1 ,\t2 ]\n", [1, 2]),
    ("[[1], [[2]]]", [[1], [[2]]]),
    ("[12345678901234567890]", [12345678901234567890]),
    ('["\\ud83d\\ude00"]', ["😀"]),
]


def test_what_is_not_a_list_is_wrapped_in_one(tmp_path: Path) -> None:
    inputs = [word for given, _ in GIVEN for word in ("-i", given)]
    ended = run_hkrunner("-e", BACK, *inputs, cwd=tmp_path)
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    assert (ended.status, results) == (0, [output for _, output in GIVEN])


def test_an_input_may_come_from_a_file_or_from_stdin(tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text("[1, 2]")
    ended = run_hkrunner("-e", ADDS, "-i", "@input.json", "-i", "-", cwd=tmp_path, input="[3, 4]\n")
    assert (ended.status, ended.stdout) == (0, "3\n7\n")


def test_pathlib_makes_folders_and_links_on_every_python(tmp_path: Path) -> None:
    """hkrunner sees what is made in shared memory, and the functions stay what they are for a class."""
    ended = run_hkrunner("-e", ALGORITHMS / "makes_folders_with_pathlib.py", "-i", "[]", cwd=tmp_path)
    assert ended.stdout == '["link","one","three",true]\n', ended.stderr


def test_tasks_may_come_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text("[1]\n\n2\n[3, 4]")
    ended = run_hkrunner("-e", ADDS, "--tasks", "tasks.jsonl", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, "1\n2\n7\n")
    ended = run_hkrunner("-e", ADDS, "--tasks", "-", "-i", "[9]", cwd=tmp_path, input="[1]\n[2]\n")
    assert (ended.status, ended.stdout) == (0, "9\n1\n2\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-i", "hello"], "--input is not JSON: 'hello': "),
        (["-i", ""], "--input is not JSON: nothing"),
        (["-i", "['a']"], "JSON strings need double quotes"),
        (["-i", "[1, 2"], "--input is not JSON"),
        (["-i", "[1,", "2]"], "split the input at its spaces: [1, 2]; put it in quotes"),
        (
            ["-i", '["["]', "--input", "{a:", "[1],", "b:", "2}"],
            "input at its spaces: {a: [1], b: 2}; put",
        ),
        (["-i", "NaN"], "NaN is no JSON; write null"),
        (["-i", "[-1e400]"], "-1e400 is larger than any number of a program, 1.8e+308"),
        (["-i", "@"], "--input @ wants the name of a file: @FILE"),
        (["--tasks", ""], "--tasks wants FILE.jsonl, not ''"),
        (["-i", "1", "--state-dir", ""], "--state-dir wants DIR, not ''"),
        (["-i", "1", "--sandbox", "strict", "--write", ""], "--write wants PATH, not ''"),
        (["-i", "@missing.json"], "--input: cannot read missing.json: No such file or directory"),
        (["-i", "[" * 100_000], "is JSON nested too deeply"),
        (["--tasks", "missing.jsonl"], "--tasks: cannot read missing.jsonl"),
        (["--tasks", "bad.jsonl"], "line 2 of bad.jsonl (--tasks) is not JSON"),
        (["--tasks", "binary"], "is not UTF-8 text"),
        (["-i", "1", "--grace", "soon"], "--grace wants a number of seconds, not 'soon'"),
        (["-i", "1", "--grace", "-1"], "--grace wants a number of seconds from 0 on"),
        (["-i", "1", "--api-port", "70000"], "--api-port wants a whole number up to 65535, not '70000'"),
        (["-i", "1", "--board-port", "70000"], "--board-port wants a whole number up to 65535, not '70000'"),
        (
            ["-i", "1", "--env", "NOVALUE"],
            "--env NOVALUE: there is no such variable here to pass on; give it a value",
        ),
        (["[1,2]"], "[1,2] has no option; use -i for an input: -i '[1,2]'"),
        (["-i", "1", "2", "3"], "3 has no option; use -i for an input: -i '3'"),
        (["-i", "1", "[2]"], "[2] has no option; use -i for an input: -i '[2]'"),
        (["-i", "-", "--tasks", "-"], "both --input - and --tasks - read stdin"),
    ],
)
def test_bad_usage_is_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("[1]\n[2\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    ended = run_hkrunner("-e", ADDS, *arguments, cwd=tmp_path)
    assert (ended.status, ended.stdout) == (2, "")
    assert sentence in ended.stderr
    assert len(ended.stderr.splitlines()) == 1 and len(ended.stderr) < 500
    assert not (tmp_path / ".hkrunner").exists()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("HKRUNNER_MEM", "foo", "foo is not a valid unit"),
        ("HKRUNNER_TIMEOUT", "x", "--timeout wants a number of seconds, not 'x'"),
        ("WORKER_SOCKET_URL", "nonsense", "the worker's URL must look like"),
        ("WORKER_SOCKET_PORT", "abc", "the worker's URL 'ws://127.0.0.1:abc' is wrong"),
        ("ALGORITHM_PATH", "nope", "no folder nope"),
    ],
)
def test_a_variable_that_is_wrong_is_named(name: str, value: str, sentence: str, tmp_path: Path) -> None:
    ended = run_hkrunner("-e", ADDS, "-i", "1", cwd=tmp_path, env={name: value})
    assert ended.status in (2, 3) and sentence in ended.stderr
    assert ended.stderr.rstrip().endswith(f"(set by {name})")


def test_a_wrong_url_of_an_option_is_not_attributed_to_a_variable(tmp_path: Path) -> None:
    env = {"WORKER_SOCKET_PORT": "3000"}
    ended = run_hkrunner("-e", ADDS, "--url", "http://host:3000", cwd=tmp_path, env=env)
    assert ended.status == 2 and ended.stderr.rstrip().endswith("not 'http://host:3000'")


def test_a_run_without_tasks_succeeds(tmp_path: Path) -> None:
    ended = run_hkrunner("-e", ADDS, "--tasks", "-", cwd=tmp_path, input="")
    assert (ended.status, ended.stdout) == (0, "")
    assert ended.stderr == "◌ no inputs in stdin: there is no task to run\n"


def test_json_has_everything_about_a_task_on_one_line(tmp_path: Path) -> None:
    run = run_tasks("adds.py", [1, 2], ["a"], cwd=tmp_path)
    good, bad = run.tasks
    assert good.keys() >= {
        *("taskId", "jobId", "nodeName", "pipelineName", "status", "reason", "error", "output", "startTime"),
        *("endTime", "durationMs", "peakMemBytes", "memLimitBytes", "cpuSeconds", "metricsDir", "logs"),
    }
    assert good.keys() == bad.keys()
    assert (good["taskId"], good["nodeName"], good["pipelineName"]) == ("t1", "adds", "local")
    assert (good["status"], good["reason"], good["error"], good["output"]) == ("succeed", None, None, 3)
    assert 0 <= good["durationMs"] < 20_000 and good["startTime"] <= good["endTime"]
    assert Path(good["logs"]["stdout"]).is_file() and Path(good["metricsDir"]).is_dir()
    assert (bad["status"], bad["reason"], bad["output"]) == ("failed", "AlgorithmError", None)
    assert bad["jobId"] == good["jobId"]
    assert run.status == 1


def test_the_highest_status_of_all_tasks_counts(tmp_path: Path) -> None:
    run = run_tasks("crashes_by_segfault.py", ["misbehave"], ["behave"], cwd=tmp_path)
    assert run.status == 139


def test_globals_survive_from_task_to_task(tmp_path: Path) -> None:
    run = run_tasks("counts_its_tasks.py", *[["go"]] * 5, cwd=tmp_path)
    assert run.outputs == [[number, True] for number in range(1, 6)]


def test_the_algorithm_runs_in_its_own_folder_and_main_thread(tmp_path: Path) -> None:
    run = run_tasks("says_who_it_is.py", ["in"], args=("--env", "COLOUR=red=blue"), cwd=tmp_path)
    told = run.outputs[0]
    assert (told["folder"], told["path"][0]) == (str(ALGORITHMS), str(ALGORITHMS))
    assert (told["main"], told["variable"], told["name"]) == (True, "red=blue", "says_who_it_is")
    assert told["args"]["input"] == ["in"]
    assert told["args"]["taskId"] == "t1" and told["args"]["nodeName"] == "says_who_it_is"
    assert not [one for one in told["path"] if "sandbox" in one or one.endswith("/hkrunner")]


def test_the_algorithm_finds_no_low_descriptor_taken(tmp_path: Path) -> None:
    run = run_tasks("says_who_it_is.py", [1], cwd=tmp_path)
    # 3 is the listing itself, on the lowest that is free.
    assert [one for one in run.outputs[0]["descriptors"] if one < 100] == [0, 1, 2, 3]


def test_pythonpath_is_the_algorithms(tmp_path: Path) -> None:
    library = tmp_path / "library"
    run = run_tasks("says_who_it_is.py", [1], cwd=tmp_path, env={"PYTHONPATH": "library"})
    assert run.status == 0, run.stderr
    told = run.outputs[0]
    assert told["python_path"] is not None and str(library) in told["path"]


def test_what_a_task_changes_stays_until_its_child_is_replaced(tmp_path: Path) -> None:
    run = run_tasks("changes_its_surroundings.py", ["go"], ["go"], ["misbehave"], ["go"], cwd=tmp_path)
    first, second, third, fourth = run.outputs
    assert first == fourth and third is None
    assert (first["folder"], first["umask"], first["variable"]) == ("algorithms", 0o022, None)
    assert (second["folder"], second["umask"], second["variable"]) == ("", 0o777, "yes")


@pytest.mark.parametrize("folder", ["with space", "ünïcode", "a'b\"c"])
def test_the_working_folder_may_be_any_folder(folder: str, tmp_path: Path) -> None:
    place = tmp_path / folder
    place.mkdir()
    (place / "alg.py").write_text("def start(args):\n    return sum(args['input'])\n")
    ended = run_hkrunner("-e", "alg.py", "-i", "[1, 2]", cwd=place)
    assert (ended.status, ended.stdout) == (0, "3\n")


def test_a_large_input_and_a_large_result_come_through(tmp_path: Path) -> None:
    text = "0123456789" * 500_000
    (tmp_path / "input.json").write_text(json.dumps([text]))
    ended = run_hkrunner("-e", BACK, "-i", "@input.json", cwd=tmp_path)
    assert ended.status == 0
    assert json.loads(ended.stdout) == [text]


def sample(program: Program) -> dict[str, tuple[int, int, int]]:
    """Threads, descriptors and resident bytes of parent, warden and child."""
    found = {}
    for process in program.family():
        words = process.cmdline()
        role = "warden" if "warden" in words else "child" if "child" in words else "parent"
        assert role not in found, f"two of {role}"
        found[role] = (process.num_threads(), process.num_fds(), process.memory_info().rss)
    return found


def test_200_tasks_finish_in_order_and_nothing_grows(tmp_path: Path) -> None:
    numbers = [*range(50), -1, *range(50, 200), -2]
    (tmp_path / "tasks.jsonl").write_text("".join(f"[{number}]\n" for number in numbers))
    arguments = ["-e", ALGORITHMS / "holds_on_when_told.py", "--tasks", "tasks.jsonl"]
    with serving(*arguments, "-E", f"GO_ON={tmp_path / 'go on'}", cwd=tmp_path) as program:
        program.wait_for_line("hold -1")
        before = sample(program)
        (tmp_path / "go on-1").touch()
        program.wait_for_line("hold -2")
        after = sample(program)
        (tmp_path / "go on-2").touch()
        assert program.wait() == 0
    assert program.stdout == [str(number) for number in numbers]
    assert set(before) == set(after) == {"parent", "warden", "child"}
    for role, (threads, descriptors, rss) in after.items():
        assert (role, threads) == (role, before[role][0])
        # The first look at a task that lasts opens files, of the warden and of its curves: at one of the two
        # moments, perhaps. 150 tasks lie between them.
        assert descriptors <= before[role][1] + 10, role
        assert rss - before[role][2] < 4 * 2**20, role


def test_a_reader_of_the_results_that_goes_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text("[1]\n" * 100_000)
    line = f'{{ "$0" -q -e "{ADDS}" --tasks tasks.jsonl --no-state; echo $? > status; }} | head -n 1'
    ended = run(["sh", "-c", line, HKRUNNER], cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, "1\n")
    # What the shell says of a writer that SIGPIPE ended.
    assert (tmp_path / "status").read_text() == "141\n"
