"""What an algorithm prints: to stderr, as it comes, in order, kept with its task; never among the results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.local import ALGORITHMS, run_tasks
from support.programs import HKRUNNER, Program, run, run_hkrunner, serving
from support.waiting import wait_until


def log(folder: Path, stream: str, task: str = "t1") -> bytes:
    return (folder / ".hkrunner" / "tasks" / task / f"{stream}.log").read_bytes()


def test_stdout_holds_results_only(tmp_path: Path) -> None:
    ended = run_hkrunner("-e", ALGORITHMS / "prints_json.py", "-i", "1", cwd=tmp_path)
    assert ended.stdout == '"the result"\n'
    assert '{"output": "not this one"}' in ended.stderr and '"nor this"' in ended.stderr


def test_both_streams_are_kept_apart_and_in_order(tmp_path: Path) -> None:
    run = run_tasks("prints_to_both.py", [1], cwd=tmp_path)
    assert run.outputs == ["printed"]
    assert log(tmp_path, "stdout").decode().splitlines()[-4:] == [
        "out from python",
        "out from the descriptor",
        "out from a program",
        "out without an end of line",
    ]
    assert log(tmp_path, "stderr").decode().splitlines() == [
        "err from python",
        "err from the descriptor",
        "err from a program",
    ]
    assert "out at import\n" in run.stderr
    # The line of hkrunner's own begins on a line of its own, whichever of the two pipes was read last.
    assert "out without an end of line" in run.stderr and "\n✔ t1 done" in run.stderr


def test_a_result_has_a_line_of_its_own_also_after_a_line_without_an_end(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text(
        'def start(args, api):\n    print("half a line", end="")\n    return 5\n'
    )
    ended = run(["sh", "-c", 'exec "$0" alg.py -i 1 -i 1 2>&1', HKRUNNER], cwd=tmp_path)
    lines = [line.partition(" done")[0] for line in ended.stdout.splitlines()]
    assert lines == ["half a line", "5", "✔ t1", "half a line", "5", "✔ t2"]


def test_quiet_shows_only_what_the_algorithm_prints(tmp_path: Path) -> None:
    ended = run_hkrunner("-q", "-e", ALGORITHMS / "prints_json.py", "-i", "1", cwd=tmp_path)
    assert ended.stderr.splitlines() == ['{"output": "not this one"}', '"nor this"']


def test_100_000_lines_arrive_whole_and_in_order(tmp_path: Path) -> None:
    run = run_tasks("prints_many_lines.py", [1], cwd=tmp_path)
    expected = [f"line {number}" for number in range(100_000)]
    assert [line for line in run.stderr.splitlines() if line.startswith("line ")] == expected
    kept = log(tmp_path, "stdout").decode().splitlines()
    assert kept[0] == expected[0] and kept[-1] == expected[-1]


def test_output_without_an_end_of_line_is_not_delayed(tmp_path: Path) -> None:
    ended = run_hkrunner("-e", ALGORITHMS / "prints_without_end_of_line.py", "-i", "1", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, '"printed"\n')
    assert ended.stderr.count("x") > 1_000_000
    assert "\n✔ t1 done" in ended.stderr


def test_bytes_that_are_no_text_pass_as_they_are(tmp_path: Path) -> None:
    script = 'exec "$0" -e "$1" -i 1 2> err'
    ended = run(["sh", "-c", script, HKRUNNER, ALGORITHMS / "prints_binary.py"], cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, '"printed"\n')
    out = bytes(range(256)) + b"\xff\xfe\xc3\x28\n"
    err = b"\x00\xf0\x9f\x98 cut off\n"
    assert log(tmp_path, "stdout") == out and log(tmp_path, "stderr") == err
    shown = (tmp_path / "err").read_bytes()
    assert out in shown and err in shown


def test_the_last_lines_go_into_the_error_of_a_task_that_died(tmp_path: Path) -> None:
    run = run_tasks("prints_unflushed.py", [1], cwd=tmp_path)
    lines = run.tasks[0]["error"]["message"].partition("last output:\n")[2].splitlines()
    assert [line.strip() for line in lines] == [f"step {number}" for number in range(40, 50)]


def test_output_comes_while_the_task_runs(tmp_path: Path) -> None:
    with serving("-e", ALGORITHMS / "sleeps.py", "-i", "[1]", "--grace", "0", cwd=tmp_path) as program:
        program.wait_for_line("asleep")
        wait_until(lambda: log(tmp_path, "stdout") == b"asleep\n", what="the line in stdout.log")
        assert program.status is None


def test_print_in_one_task_is_kept_with_that_task(tmp_path: Path) -> None:
    run_tasks("prints_json.py", [1], [2], cwd=tmp_path)
    for task in ("t1", "t2"):
        assert log(tmp_path, "stdout", task) == b'{"output": "not this one"}\n"nor this"\n'


def test_the_algorithms_stdin_is_empty(tmp_path: Path) -> None:
    ended = run_hkrunner("-e", ALGORITHMS / "reads_stdin.py", "-i", "-", cwd=tmp_path, input="[1]")
    assert json.loads(ended.stdout) == ["", False]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_hkrunners_own_lines_are_readable_in_any_locale(encoding: str, tmp_path: Path) -> None:
    env = {"PYTHONIOENCODING": encoding}
    ended = run_hkrunner("-e", ALGORITHMS / "adds.py", "-i", "1", "-i", '["ü"]', cwd=tmp_path, env=env)
    assert ended.stdout == "1\n"
    done = "ok t1 done in" if encoding == "ascii" else "✔ t1 done in"
    assert done in ended.stderr and ended.stderr.isascii() == (encoding == "ascii")


def test_help_and_version(tmp_path: Path) -> None:
    told = run_hkrunner("--help", cwd=tmp_path)
    assert told.status == 0 and "--input" in told.stdout and "Exit status:" in told.stdout
    assert re.fullmatch(r"hkrunner \d+\.\d+\S*\n", run_hkrunner("--version", cwd=tmp_path).stdout)
    assert not list(tmp_path.iterdir())


def test_an_unknown_option_is_one_sentence(tmp_path: Path) -> None:
    ended = run_hkrunner("--inptu", "1", cwd=tmp_path)
    assert ended.status == 2 and "No such option" in ended.stderr and "--input" in ended.stderr


def test_a_slow_reader_of_results_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text(("[" + '"' + "x" * 100_000 + '"' + "]\n") * 60)
    line = '"$0" -q -e "$1" --tasks tasks.jsonl --no-state | (read first; wc -l)'
    with Program(
        ["sh", "-c", line, HKRUNNER, ALGORITHMS / "gives_its_input_back.py"], cwd=tmp_path
    ) as program:
        assert program.wait() == 0
    assert program.stdout == ["59"]


def test_what_an_earlier_task_left_is_named_where_it_may_have_printed_the_last_lines(tmp_path: Path) -> None:
    tasks = ["quick", "fail", "daemon", "fail", "thread", "process", "fail", "thread", "ended", "fail"]
    run = run_tasks("leaves_what_prints.py", *([task] for task in tasks), cwd=tmp_path)
    told = [task["error"]["message"] for task in run.tasks if task["error"] is not None]
    headings = [re.findall(r"^last output.*:$", message, re.M)[0] for message in told]
    assert [re.sub(r"\(pid \d+\)", "(pid)", heading) for heading in headings] == [
        "last output:",
        "last output (some of it may be of process python (pid), which ran before this task):",
        "last output (some of it may be of thread ticker, process python (pid), which ran before this task):",
        "last output:",
    ]
    assert "  mine\n" in told[3] + "\n" and "of the" not in told[3].partition("last output:")[2]
    assert "  of the daemon" in told[1] and "  of the thread" in told[2] and "  of the process" in told[2]
    folders = tmp_path / ".hkrunner" / "tasks"
    before = [
        json.loads((folders / f"t{number}" / "task.json").read_text()).get("ranBefore") for number in (2, 7)
    ]
    assert before[0] is None and before[1][0] == "thread ticker" and len(before[1]) == 2
