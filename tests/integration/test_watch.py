"""`--watch`: each save runs the inputs again in a new child, and no error of the code ends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.programs import Program, run_hkrunner, serving
from support.waiting import wait_until

WATCHING = "watching "
#: With it on the path, Python begins as if there were no such package.
NO_PACKAGE = "import sys\nsys.modules['watchfiles'] = None\n"


def returns(value: str) -> str:
    return f"import os\nprint('pid', os.getpid())\ndef start(args):\n    return {value}\n"


def save(path: Path, text: str) -> None:
    """Save as editors do: a new file in the place of the old."""
    other = path.with_suffix(".swp")
    other.write_text(text)
    other.replace(path)


def wait_for_runs(program: Program, count: int) -> None:
    """Wait until that many runs are over and changes are waited for."""
    wait_until(
        lambda: sum(WATCHING in line for line in program.stderr) >= count or program.status is not None,
        deadline_s=30,
        what=f"the end of run {count}",
    )
    assert program.status is None, program.report()


@pytest.fixture(params=["watchfiles", "every 0.5 s"])
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Program, Path]]:
    """A run that waits for its first change, noticed by the package or by the clock; and its code."""
    folder = tmp_path / "code"
    folder.mkdir()
    code = folder / "my_alg.py"
    code.write_text(returns("1"))
    hide = tmp_path / "hide"
    hide.mkdir()
    env: dict[str, str | None] = {}
    if request.param != "watchfiles":
        (hide / "sitecustomize.py").write_text(NO_PACKAGE)
        env["PYTHONPATH"] = str(hide)
    with serving("my_alg.py", "-i", "[1]", "--watch", cwd=folder, env=env) as program:
        wait_for_runs(program, 1)
        assert f"({request.param})" in program.wait_for_line(WATCHING)
        yield program, code


def end(program: Program) -> int:
    program.send_signal(signal.SIGINT)
    return program.wait()


def test_each_save_runs_the_inputs_again_in_a_new_process(watched: tuple[Program, Path]) -> None:
    program, code = watched
    save(code, returns("2"))
    wait_for_runs(program, 2)
    save(code, returns("3"))
    wait_for_runs(program, 3)
    assert end(program) == 0
    assert program.stdout == ["1", "2", "3"]
    assert len({line for line in program.stderr if line.startswith("pid ")}) == 3


def test_an_error_keeps_the_last_good_result_and_the_next_save_runs(watched: tuple[Program, Path]) -> None:
    program, code = watched
    save(code, "def start(args:\n")
    wait_for_runs(program, 2)
    assert "last good result: t1 at" in program.wait_for_line("last good")
    assert "→ 1 · .hkrunner/tasks/t1" in program.wait_for_line("last good")
    save(code, returns("1 / 0"))
    wait_for_runs(program, 3)
    program.wait_for_line("ZeroDivisionError")
    assert (code.parent / ".hkrunner/tasks/t1/output.json").read_text() == "1"
    save(code, returns("4"))
    wait_for_runs(program, 4)
    assert end(program) == 0
    assert program.stdout == ["1", "4"]


def test_ctrl_c_ends_with_the_status_of_the_last_run(tmp_path: Path) -> None:
    (tmp_path / "my_alg.py").write_text("def nothing(): ...\n")
    with serving("my_alg.py", "-i", "1", "--watch", cwd=tmp_path) as program:
        wait_for_runs(program, 1)
        assert end(program) == 4


def test_ctrl_c_during_a_run_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "my_alg.py").write_text(
        "def start(args, api):\n    print('running')\n    api.wait_for_stop()\n"
    )
    with serving("my_alg.py", "-i", "1", "--watch", cwd=tmp_path) as program:
        program.wait_for_line("running")
        assert end(program) == 130


def test_a_change_of_a_helper_module_starts_a_run_and_a_result_file_does_not(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("value = 1\n")
    code = "import helper\ndef start(args):\n    open('out.json', 'w').write('x')\n    return helper.value\n"
    (tmp_path / "my_alg.py").write_text(code)
    with serving("my_alg.py", "-i", "1", "--watch", cwd=tmp_path) as program:
        wait_for_runs(program, 1)
        # Of one size, and often in the same second.
        save(tmp_path / "helper.py", "value = 2\n")
        wait_for_runs(program, 2)
        assert "helper.py changed" in program.wait_for_line("changed")
        assert end(program) == 0
    assert program.stdout == ["1", "2"]


def test_the_descriptor_and_a_file_of_variables_are_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    code = "import os\ndef start(args):\n    return [os.environ.get('A'), os.environ.get('B')]\n"
    (folder / "my_alg.py").write_text(code)
    save(tmp_path / "variables", "A=1\n")
    with serving("my_alg.py", "-i", "1", "--watch", "--env-file", "../variables", cwd=folder) as program:
        wait_for_runs(program, 1)
        save(tmp_path / "variables", "A=2\n")
        wait_for_runs(program, 2)
        save(folder / "algorithm.yml", "name: my-alg\nalgorithmEnv: {B: '3'}\nmem: 64Mi\n")
        wait_for_runs(program, 3)
        assert "memory 64 MiB" in program.wait_for_line("limits:")
        save(folder / "algorithm.yml", "name: [\n")
        wait_for_runs(program, 4)
        program.wait_for_line("limits and variables stay as they were")
        save(folder / "algorithm.yml", "name: my-alg\nalgorithmEnv: {B: '4'}\n")
        wait_for_runs(program, 5)
        assert end(program) == 0
    assert program.stdout == ['["1",null]', '["2",null]', '["2","3"]', '["2","3"]', '["2","4"]']


def test_code_that_is_gone_is_no_missing_package(tmp_path: Path) -> None:
    save(tmp_path / "my_alg.py", returns("1"))
    with serving("my_alg.py", "-i", "1", "--watch", cwd=tmp_path) as program:
        wait_for_runs(program, 1)
        (tmp_path / "my_alg.py").unlink()
        program.wait_for_line(f"ENTRY_NOT_FOUND: my_alg.py is not in {tmp_path} any more", deadline_s=20)
        save(tmp_path / "my_alg.py", returns("2"))
        program.wait_for_line("2", stream="stdout", deadline_s=20)
        assert end(program) in (0, 130)


def test_code_that_changes_its_own_files_does_not_run_for_ever(tmp_path: Path) -> None:
    code = (
        "import os, time\ndef start(args):\n"
        "    open('made.py', 'w').write('x = %d' % time.time_ns())\n    return os.getpid()\n"
    )
    (tmp_path / "my_alg.py").write_text(code)
    with serving("my_alg.py", "-i", "1", "--watch", cwd=tmp_path) as program:
        program.wait_for_line("made.py is written by each run; no longer watched", deadline_s=30)
        wait_for_runs(program, 2)
        runs = len(program.stdout)
        save(tmp_path / "my_alg.py", code + "# changed\n")
        wait_until(lambda: len(program.stdout) > runs, deadline_s=20, what="a run after a save")
        assert end(program) in (0, 130)


def test_without_inputs_there_is_nothing_to_run_again(tmp_path: Path) -> None:
    (tmp_path / "my_alg.py").write_text(returns("1"))
    ended = run_hkrunner("my_alg.py", "--watch", cwd=tmp_path, env={"PATH": os.environ["PATH"]})
    assert (ended.status, ended.stderr) == (
        2,
        "hkrunner: --watch runs inputs again when the code has changed: give --input or --tasks\n",
    )
