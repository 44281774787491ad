"""Results as a file, as objects, as events; the whole traceback; a recorded task repeated."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

from support.programs import HKRUNNER, run, run_hkrunner
from support.served import serving_worker
from support.waiting import wait_until

TALKS = """
import time
def start(args, api):
    print("a line"); print("one without an end", end="", flush=True)
    api.progress(50, "half")
    (what,) = args["input"]
    if what == "raise":
        return {}["age"]
    while what == "grow":
        blocks.append(bytearray(b"x" * 4_000_000))
    if what == "last":
        time.sleep(0.8)  # with a sample, also on a busy machine
    return {"said": what}
blocks = []
"""


def test_events_describe_a_run_from_its_begin_to_its_end_and_are_alone_on_stdout(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text(TALKS)
    ended = run_hkrunner(
        *("alg.py", "-i", '"last"', "-i", '"raise"', "-i", '"grow"', "--mem", "64Mi", "--mem-mode", "rss"),
        *("--output", "jsonl"),
        cwd=tmp_path,
    )
    assert ended.status == 137
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert all(isinstance(one["time"], int) for one in events)
    of = {task: [one for one in events if one.get("taskId") == task] for task in ("t1", "t2", "t3")}
    assert [one["event"] for one in events[:2]] == ["loaded", "connected"]
    names = [one["event"] for one in of["t1"]]
    assert names[:2] == ["initialized", "started"] and names[-1] == "done"
    assert {"log", "progress", "sample"} <= set(names)
    assert of["t1"][0]["pipelineName"] == "local" and of["t1"][-1]["output"] == {"said": "last"}
    lines = [one["line"] for one in of["t1"] if one["event"] == "log"]
    assert lines == ["a line", "one without an end"]
    assert of["t2"][-1]["event"] == "errorMessage" and of["t2"][-1]["reason"] == "AlgorithmError"
    killed, answer = of["t3"][-2:]
    assert (killed["event"], killed["code"], killed["allowed"]) == ("killed", "OUT_OF_MEMORY", 64 << 20)
    assert (answer["event"], answer["reason"]) == ("errorMessage", "MemoryLimit")
    assert "a line" in ended.stderr  # what is printed is seen all the same


def test_events_tell_what_is_served(tmp_path: Path) -> None:
    with serving_worker(tmp_path, "--output", "jsonl") as (client, program):
        client.run(["give", 1])
        program.wait_for_line('"event":"done"', stream="stdout")
        client.initialize(["wait for stop"])
        client.expect("initialized")
        client.start()
        wait_until(lambda: "".join(program.stdout).count('"started"') == 2, what="its start")
        client.stop()
        client.expect("stopped")
        program.wait_for_line('"event":"stopped"', stream="stdout")
    names = [json.loads(line)["event"] for line in program.stdout]
    assert names.count("initialized") == names.count("started") == 2 and "connected" in names


def test_results_in_a_file_are_complete_and_leave_stdout_empty(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text(TALKS)
    place = tmp_path / "out.jsonl"
    place.write_text("as it was")
    place.chmod(0o640)
    (tmp_path / "link").symlink_to(place)
    ended = run_hkrunner("alg.py", "-i", "1", "-i", '"raise"', "-i", "2", "-o", "link", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (1, "")
    assert place.read_text() == '{"said":1}\n{"said":2}\n'
    assert (tmp_path / "link").is_symlink() and stat.S_IMODE(place.stat().st_mode) == 0o640
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_this_name\n")
    ended = run_hkrunner("broken.py", "-i", "1", "-o", "out.jsonl", cwd=tmp_path)
    assert ended.status == 4 and place.read_text() == '{"said":1}\n{"said":2}\n'
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_an_unusable_output_file_is_reported_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text("raise SystemExit('it was loaded')\n")
    (tmp_path / "in").write_text("[1]\n")
    for place, sentence in [
        ("none/out", "--output-file none/out: No such file or directory"),
        (".", "--output-file .: is a folder"),
        ("./alg.py", "--output-file ./alg.py: this is the code, which the results would replace"),
        ("./in", "--output-file ./in: this is the file of --tasks, which the results would replace"),
    ]:
        ended = run_hkrunner("alg.py", "--tasks", "in", "-o", place, cwd=tmp_path)
        assert (ended.status, ended.stderr) == (2, f"hkrunner: {sentence}\n")
    ended = run_hkrunner("alg.py", "--tasks", "/dev/null", "-o", "/dev/null", cwd=tmp_path)
    assert ended.status != 2, "a device is written to, not replaced"
    ended = run_hkrunner("alg.py", "-o", "out", cwd=tmp_path)
    assert ended.status == 2 and "give --input or --tasks with it" in ended.stderr


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text(TALKS)
    ended = run_hkrunner("alg.py", "-i", "1", "-o", "/dev/full", cwd=tmp_path)
    assert ended.status == 1
    assert "✘ --output-file: No space left on device" in ended.stderr


def test_events_end_silently_when_their_reader_is_gone(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text(TALKS)
    script = 'hkrunner alg.py -i 1 -i 2 --output jsonl 2>err | head -1 >/dev/null; echo "${PIPESTATUS[0]}"'
    ended = run(["bash", "-c", f"PATH={os.path.dirname(sys.executable)}:$PATH; {script}"], cwd=tmp_path)
    assert ended.stdout.strip() in ("0", "141")
    assert "Traceback" not in (tmp_path / "err").read_text()


def test_a_closed_stdout_is_not_replaced_by_another_file(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text(TALKS)
    for more in ("", "--output jsonl", "--in-process"):
        ended = run(["sh", "-c", f'exec "$0" alg.py -i 1 {more} >&-', HKRUNNER], cwd=tmp_path)
        assert ended.status in (0, 141), ended.stderr
        assert "✘" not in ended.stderr and "Traceback" not in ended.stderr, ended.stderr


def test_the_whole_traceback_is_shown_when_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text(TALKS)
    short = run_hkrunner("alg.py", "-i", '"raise"', cwd=tmp_path)
    whole = run_hkrunner("alg.py", "-i", '"raise"', "--full-trace", "--color", "always", cwd=tmp_path)
    assert "Traceback" not in short.stderr and "\x1b" not in short.stderr
    _, _, frames = whole.stderr.partition("Traceback (most recent call last):\n")
    assert frames.splitlines()[0].endswith('alg.py", line 8, in start')
    assert "\x1b[31m✘ task t2 failed: ALGORITHM_ERROR: KeyError: 'age'" in whole.stderr


def test_a_recorded_task_is_repeated_with_the_options_that_are_given(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text(
        "import os\ndef start(args):\n    return [args['input'], os.environ['A']]\n"
    )
    (tmp_path / "env").write_text("A=1\n")
    first = run_hkrunner("alg.py", "-i", "[7]", "--env-file", "env", cwd=tmp_path)
    (tmp_path / "elsewhere").mkdir()
    again = run_hkrunner("--again", "t1", "--state-dir", "../.hkrunner", cwd=tmp_path / "elsewhere")
    other = run_hkrunner("--again", "t1", "-i", "[8]", "-E", "A=2", cwd=tmp_path)
    assert [first.stdout, again.stdout, other.stdout] == ['[[7],"1"]\n', '[[7],"1"]\n', '[[8],"2"]\n']
    none = run_hkrunner("--again", "t99", cwd=tmp_path)
    assert none.status == 2 and "there is no task t99" in none.stderr
    wait_until(lambda: (tmp_path / ".hkrunner/tasks/t3/task.json").exists(), what="its record")


def test_the_wrappers_own_variable_says_how_much_is_reported(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text("def start(args):\n    return 1\n")
    told = {
        level: run_hkrunner("alg.py", "-i", "1", cwd=tmp_path, env={"HKUBE_LOG_LEVEL": level}).stderr
        for level in ("WARNING", "debug", "loud")
    }
    assert told["WARNING"] == ""
    assert "worker: initialize" in told["debug"]
    assert "HKUBE_LOG_LEVEL=loud is not one of DEBUG, INFO" in told["loud"]


def test_the_folder_for_metrics_is_absolute_with_records_and_without(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    code = "import os\ndef start(args):\n    return os.path.realpath(os.environ['ALGO_METRICS_DIR'])\n"
    (tmp_path / "code" / "alg.py").write_text(code)
    for more, task in ([], "/t1"), (["--no-state"], ""):
        ended = run_hkrunner("code/alg.py", "-i", "1", "--metrics-dir", "there", *more, cwd=tmp_path)
        assert ended.stdout == f'"{tmp_path}/there{task}"\n'
