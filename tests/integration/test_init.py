"""`hkrunner init`: a folder that runs, validates and is never overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.programs import Program, run_hkrunner, serving

FILES = [".hkubeignore", "algorithm.yml", "my_alg.py"]


def made(folder: Path, name: str = "my_alg") -> Path:
    ended = run_hkrunner("init", name, cwd=folder)
    assert ended.status == 0, ended
    assert sorted(ended.stdout.splitlines()) == [f"{name}/{one}" for one in FILES]
    return folder / name


def test_what_it_makes_runs_at_once(tmp_path: Path) -> None:
    folder = made(tmp_path)
    ended = run_hkrunner("--entry", "my_alg.py", "-i", "[1, 2, 3]", cwd=folder)
    assert (ended.status, ended.stdout) == (0, "14\n")
    ended = run_hkrunner("-i", "[1, 2, 3]", "-v", cwd=folder)
    assert (ended.status, ended.stdout) == (0, "14\n")
    assert "512 MiB" in ended.stderr and "squaring" in ended.stderr


def test_a_folder_without_a_name_is_not_the_working_folder(tmp_path: Path) -> None:
    ended = run_hkrunner("init", "", cwd=tmp_path)
    assert (ended.status, ended.stderr) == (2, "hkrunner: init wants the name of a folder, not ''\n")
    assert not list(tmp_path.iterdir())


def test_what_it_makes_validates(tmp_path: Path) -> None:
    ended = run_hkrunner("validate", "--json", cwd=made(tmp_path, "My First_Alg"))
    told = json.loads(ended.stdout)
    assert (ended.status, told["problems"], told["missing"]) == (0, [], [])
    assert told["descriptor"]["fields"]["name"] == "my-first-alg"
    assert told["descriptor"]["fields"]["mem"] == "512Mi"


def test_a_long_task_of_it_stops_when_it_is_asked(tmp_path: Path) -> None:
    folder = made(tmp_path)
    code = (folder / "my_alg.py").read_text()
    (folder / "my_alg.py").write_text(code.replace('numbers = args["input"]', "numbers = range(10**9)"))
    program: Program
    with serving("-i", "[]", "-v", cwd=folder) as program:
        program.wait_for_line("squaring")
        program.stop()
    assert program.status == 143
    assert not any("killed" in line for line in program.stderr)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/my_alg.py").write_text("mine")
    ended = run_hkrunner("init", "mine", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (2, "")
    assert "already has my_alg.py; nothing was written" in ended.stderr
    assert [one.name for one in (tmp_path / "mine").iterdir()] == ["my_alg.py"]
    assert (tmp_path / "mine/my_alg.py").read_text() == "mine"


def test_a_folder_of_other_things_gets_the_files_beside_them(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/notes.txt").write_text("")
    assert run_hkrunner("init", ".", cwd=tmp_path / "here").status == 0
    assert sorted(one.name for one in (tmp_path / "here").iterdir()) == [*FILES, "notes.txt"]


@pytest.mark.parametrize("name", ["...", "x", "file/below"])
def test_an_unusable_name_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run_hkrunner("init", name, cwd=tmp_path)
    assert (ended.status, ended.stdout, len(ended.stderr.splitlines())) == (2, "", 1)
