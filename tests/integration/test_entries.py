"""Every way to write and to name an algorithm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.local import ALGORITHMS, run_tasks
from support.programs import run_hkrunner

FORMS: dict[str, Any] = {
    "async_start": [2, 4],
    "takes_args_only": [1, 2],
    "takes_nothing": "nothing taken",
    "takes_keyword_only_api": [[1, 2], "Api"],
    "takes_anything": [2, []],
    "takes_a_default": [[1, 2], True],
    "is_a_callable_object": ["called", [1, 2]],
    "is_a_partial": ["model", [1, 2]],
    "is_a_bound_method": ["model", [1, 2]],
    "is_a_class": {"got": [1, 2]},
    "has_init": [1, [1, 2]],
    "has_initialize": "loaded",
    "my-alg": "served",
    "my-alg.v2": "served",
    "uses_fork_pool": [1, 4],
    "uses_spawn_pool": [1, 4],
    "uses_a_process_pool_executor": [1, 4],
    "folder_with_siblings/my_alg": ["helper", "inner", "folder_with_siblings"],
    "folder_with_relative_imports/my_alg": ["helper", "inner of helper"],
    "package/my_alg": ["ready", "helper"],
    "package/sub/deep": ["deep", "deep"],
    "folder_with_main/main": "main",
}


@pytest.mark.parametrize("algorithm", FORMS)
def test_a_start_in_any_form_is_called_as_it_wants(algorithm: str, tmp_path: Path) -> None:
    run = run_tasks(f"{algorithm}.py", [1, 2], cwd=tmp_path)
    assert (run.status, run.outputs) == (0, [FORMS[algorithm]]), run.stderr


@pytest.mark.parametrize("algorithm", ["is_a_bound_method", "is_a_callable_object", "is_a_partial"])
def test_an_inspect_py_beside_the_entry_does_not_run_in_code_of_ours(algorithm: str, tmp_path: Path) -> None:
    shutil.copy(ALGORITHMS / f"{algorithm}.py", tmp_path / "main.py")
    (tmp_path / "inspect.py").write_text("raise SystemExit('not to be imported')\n", encoding="utf-8")
    run = run_tasks(str(tmp_path), [1, 2], cwd=tmp_path)
    assert (run.status, run.outputs) == (0, [FORMS[algorithm]]), run.stderr


def test_a_function_written_in_c_is_called(tmp_path: Path) -> None:
    run = run_tasks("is_a_builtin.py", [1, 2], cwd=tmp_path)
    assert run.status == 0 and isinstance(run.outputs[0], int) and run.outputs[0] > 5


def test_init_runs_for_every_task_with_the_dict_that_start_gets(tmp_path: Path) -> None:
    run = run_tasks("has_init.py", [1], [2], [3], cwd=tmp_path)
    assert run.outputs == [[1, [1]], [2, [2]], [3, [3]]]


@pytest.mark.parametrize(("function", "output"), [("train", ["trained", [7]]), ("test", ["tested", [7]])])
def test_the_function_may_be_named(function: str, output: list[Any], tmp_path: Path) -> None:
    run = run_tasks(f"has_several_functions.py:{function}", [7], cwd=tmp_path)
    assert run.outputs == [output]


def test_a_function_that_is_not_there_is_reported_with_those_that_are(tmp_path: Path) -> None:
    entry = f"{ALGORITHMS / 'has_several_functions.py'}:run"
    ended = run_hkrunner("--entry", entry, "--input", "1", cwd=tmp_path)
    assert ended.status == 4
    assert (
        "has_several_functions.py has no function run(args, api); it has: train, test, main" in ended.stderr
    )


NAMED = [
    (["--entry", "folder_with_main"], "main"),
    (["--entry", "folder_with_main/"], "main"),
    (["--entry", "folder_with_main/main"], "main"),
    (["folder_with_main/main.py"], "main"),
    (["--path", "folder_with_main"], "main"),
    (["--entry", "package/sub/deep.py"], ["deep", "deep"]),
    (["--path", "package", "--entry", "sub/deep.py"], ["deep", "deep"]),
    (["--path", "package", "--entry", "sub.deep"], ["deep", "deep"]),
    (["--entry", "package.sub.deep"], ["deep", "deep"]),
    (["--path", "package", "--entry", "my_alg.py"], ["ready", "helper"]),
    (["--path", "folder_with_relative_imports", "-e", "my_alg.py"], ["helper", "inner of helper"]),
    (["--path", "folder_with_siblings", "-e", "my_alg"], ["helper", "inner", "folder_with_siblings"]),
]


@pytest.mark.parametrize(("arguments", "output"), NAMED)
def test_an_entry_may_be_named_in_many_ways(arguments: list[str], output: Any, tmp_path: Path) -> None:
    run = run_hkrunner(*arguments, "-i", "[1]", "--state-dir", tmp_path / "state", cwd=ALGORITHMS)
    assert run.status == 0, run.stderr
    assert json.loads(run.stdout) == output


def test_the_variables_of_hkubes_images_name_the_entry(tmp_path: Path) -> None:
    env = {"ALGORITHM_PATH": str(ALGORITHMS / "folder_with_siblings"), "ALGORITHM_ENTRY_POINT": "my_alg.py"}
    run = run_hkrunner("-i", "[1]", cwd=tmp_path, env=env)
    assert (run.status, run.stdout) == (0, '["helper","inner","folder_with_siblings"]\n')


def test_main_py_is_the_default(tmp_path: Path) -> None:
    shutil.copy(ALGORITHMS / "folder_with_main" / "main.py", tmp_path)
    assert run_hkrunner("-i", "1", cwd=tmp_path).stdout == '"main"\n'


def test_files_named_like_modules_of_hkrunner_or_the_standard_library_are_the_users(tmp_path: Path) -> None:
    run = run_tasks("folder_with_our_names/my_alg.py", [1], [2], cwd=tmp_path)
    assert run.outputs == [["user"] * 12] * 2, run.stderr


def test_hkrunner_runs_in_a_folder_with_files_named_like_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(ALGORITHMS / "folder_with_our_names", folder, ignore=lambda *_: ["__pycache__"])
    ended = run_hkrunner("--entry", "my_alg.py", "--input", "1", cwd=folder)
    assert (ended.status, ended.stdout) == (0, str(["user"] * 12).replace("'", '"').replace(" ", "") + "\n")


#: Where the file that spawns lies, how the entry is named, and how the file begins.
PLACES = {
    "a name that is no identifier": ("train-model.py", "train-model.py", ""),
    "a name with dots": ("model.v2.py", "model.v2.py", ""),
    "a name that the interpreter has taken": ("io.py", "io.py", ""),
    "a name of Python's own": ("__main__.py", "__main__.py", ""),
    "a folder": ("main.py", ".", ""),
    "a folder that is a package": ("pack/main.py", "pack", "from .helper import nothing"),
    "a package whose folder is no identifier": (
        "my-pack.v1/main.py",
        "my-pack.v1",
        "from .helper import nothing",
    ),
    "a package that is called as one of Python's": ("email/main.py", "email", "from .helper import nothing"),
    "a dotted module": ("inner/deep/alg.py", "inner.deep.alg", ""),
    "a dotted module that is called as one of Python's": ("test/alg.py", "test.alg", ""),
}


def placed(file: str, first_line: str, folder: Path) -> None:
    """Have the file that spawns workers there, with a helper beside it."""
    target = folder / file
    target.parent.mkdir(parents=True, exist_ok=True)
    code = (ALGORITHMS / "spawns-its-workers.py").read_text()
    target.write_text(f"{first_line}\n{code}")
    (target.parent / "helper.py").write_text("nothing = None\n")


@pytest.mark.parametrize("place", PLACES)
def test_spawned_workers_find_what_the_entry_defines(place: str, tmp_path: Path) -> None:
    file, entry, first_line = PLACES[place]
    placed(file, first_line, tmp_path)
    inputs = (
        "-i",
        '["spawn", [1, 2]]',
        "-i",
        '["forkserver", [3]]',
        "-i",
        '["pool", [4]]',
        "-i",
        '["command", [5]]',
    )
    ended = run_hkrunner("--no-state", "-e", entry, *inputs, "--timeout", "60", cwd=tmp_path)
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    assert results == [[[1, 4], [2, 4], [3, 6]], [[9], [6], [9]], [[16], [8], [12]], [[25], [10]]], (
        ended.stderr
    )


@pytest.mark.parametrize("place", ["a name that is no identifier", "a name with dots"])
def test_workers_spawned_in_process_find_what_the_entry_defines(place: str, tmp_path: Path) -> None:
    file, entry, first_line = PLACES[place]
    placed(file, first_line, tmp_path)
    ended = run_hkrunner("--no-state", "--in-process", "-e", entry, "-i", '["spawn", [1, 2]]', cwd=tmp_path)
    assert json.loads(ended.stdout) == [[1, 4], [2, 4], [3, 6]], ended.stderr


def test_a_pickle_of_a_script_that_names_what_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    run = run_tasks("reads_a_pickle_of_another_script.py", [1], cwd=tmp_path)
    assert (
        "the pickle is of a script, which it calls __main__: define or import its names in "
        "reads_a_pickle_of_another_script.py" in run.stderr
    )


def test_two_entries_are_refused(tmp_path: Path) -> None:
    ended = run_hkrunner("a.py", "--entry", "b.py", "-i", "1", cwd=tmp_path)
    assert ended.status == 2 and "two entries: a.py and --entry b.py" in ended.stderr
