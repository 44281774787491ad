"""`hkrunner validate`: the code is loaded, no task is run, and what is missing is named."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from support.local import ALGORITHMS
from support.programs import run_hkrunner


def write(folder: Path, code: str, *, name: str = "my_alg.py") -> Path:
    (folder / name).write_text(code)
    return folder / name


def facts(cwd: Path, *args: str | Path) -> tuple[int, dict[str, Any]]:
    """Return the exit status and the object of --json."""
    ended = run_hkrunner("validate", "--json", *args, cwd=cwd)
    told = json.loads(ended.stdout)
    assert (told["status"], told["ok"]) == (ended.status, ended.status == 0)
    return ended.status, told


def test_validate_reports_what_it_finds_and_runs_no_task(tmp_path: Path) -> None:
    write(tmp_path, "print('imported')\ndef start(args, hkubeApi=None):\n    print('started')\n")
    ended = run_hkrunner("validate", "my_alg.py", cwd=tmp_path)
    assert ended.status == 0
    assert f"✔ code: my_alg.py in {tmp_path}\n" in ended.stdout
    assert "✔ start(args, hkubeApi=…): called with (args, api)\n" in ended.stdout
    assert "optional functions that it does not have: init, stop, exit" in ended.stdout
    assert ended.stderr == "imported\n"
    assert sorted(one.name for one in tmp_path.iterdir() if one.name != "__pycache__") == ["my_alg.py"]


def test_the_methods_are_reported_with_what_each_is_called_with(tmp_path: Path) -> None:
    code = "def initialize(a): ...\ndef go(): ...\ndef stop(*all): ...\ndef exit(o=1): ...\n"
    write(tmp_path, code)
    status, told = facts(tmp_path, "my_alg.py:go")
    assert status == 0
    given = {
        name: (one["function"], one["parameters"], one["given"]) for name, one in told["methods"].items()
    }
    assert given == {
        "init": ("init", "a", ["args"]),
        "start": ("go", "", []),
        "stop": ("stop", "*all", ["options"]),
        "exit": ("exit", "o=…", ["options"]),
    }


def test_a_method_with_an_unusable_signature_is_reported_before_it_is_called(tmp_path: Path) -> None:
    write(tmp_path, "def start(args): ...\ndef stop(reason, signal): ...\n")
    status, told = facts(tmp_path, "my_alg.py")
    assert status == 4
    assert told["problems"] == [
        "ENTRY_INVALID: stop in my_alg.py wants (reason, signal); it is called with (args)"
    ]


@pytest.mark.parametrize(
    ("algorithm", "status", "problem"),
    [
        ("has_no_start.py", 4, "ENTRY_INVALID: "),
        ("syntax_error.py", 4, "IMPORT_FAILED: SyntaxError"),
        ("start_wants_three.py", 4, "ENTRY_INVALID: "),
        ("exits_at_once_at_import.py", 4, ""),
        ("crashes_at_import.py", 4, ""),
        ("not_there.py", 3, "ENTRY_NOT_FOUND: "),
    ],
)
def test_code_that_cannot_be_run_has_the_status_of_the_run(
    algorithm: str, status: int, problem: str, tmp_path: Path
) -> None:
    ended, told = facts(tmp_path, ALGORITHMS / algorithm)
    assert ended == status
    (text,) = told["problems"]
    assert text.startswith(problem) and text


def test_an_import_that_hangs_ends_at_its_limit(tmp_path: Path) -> None:
    status, told = facts(tmp_path, ALGORITHMS / "hangs_at_import.py", "--start-timeout", "0.5")
    assert status == 4
    assert "--start-timeout" in told["problems"][0]


def test_missing_imports_are_named_with_the_line_of_requirements(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("no-such-thing==1.0\n")
    (tmp_path / "helper.py").write_text("import no_such_other.part\n")
    code = """
        import os, helper_of_none
        try:
            import no_such_guarded
        except ImportError:
            no_such_guarded = None
        def start(args):
            from no_such_thing import x
            import helper
    """
    write(tmp_path, "\n".join(line[8:] for line in code.splitlines()).replace(", helper_of_none", ""))
    status, told = facts(tmp_path, "my_alg.py")
    assert status == 4
    assert told["problems"][0].startswith(
        "requirements.txt: not installed: no-such-thing; give --install, or install: "
    )
    shown = [(one["module"], one["at"], one["optional"]) for one in told["missing"]]
    assert shown == [
        ("no_such_guarded", "my_alg.py:4", True),
        ("no_such_thing", "my_alg.py:8", True),
        ("no_such_other.part", "helper.py:1", True),
    ]
    hint = "requirements.txt beside it lists no-such-thing: give --install, or install it: "
    assert hint in told["missing"][1]["hint"]
    assert "does not list it" in told["missing"][2]["hint"]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "my_alg.py",
            "# /// script\n# dependencies = ['no-such-thing>=2', 'psutil', 'no; os_name == \"x\"']\n# ///\n",
            "inline metadata in my_alg.py: not installed: no-such-thing; give --install",
        ),
        (
            "pyproject.toml",
            "[project]\nname = 'x'\nversion = '1'\ndependencies = ['no-such-thing[extra]', 'psutil']\n",
            "pyproject.toml: not installed: no-such-thing; give --install",
        ),
        (
            "more.txt",
            "no-such-thing\n",
            "requirements.txt: not installed: no-such-thing; give --install, or ",
        ),
    ],
)
def test_requirements_that_are_not_installed_are_a_problem_wherever_they_are_listed(
    file: str, text: str, said: str, tmp_path: Path
) -> None:
    write(tmp_path, "def start(args): ...\n")
    with (tmp_path / file).open("a") as written:
        written.write(text)
    if file == "more.txt":
        (tmp_path / "requirements.txt").write_text("-r more.txt\n-c more.txt\npsutil\n")
    status, told = facts(tmp_path, "my_alg.py")
    assert status == 4
    (problem,) = told["problems"]
    assert problem.startswith(said) and problem.count("no-such-thing") == 1


def test_another_version_than_the_required_one_and_a_list_that_is_not_there_are_problems(
    tmp_path: Path,
) -> None:
    write(tmp_path, "def start(args): ...\n")
    lines = ["psutil>=5,<999", "click >= 999  # newer", "-r other.txt", "pytest==0.1 --hash=sha256:aa"]
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    status, told = facts(tmp_path, "my_alg.py")
    assert status == 4
    absent, unmet = told["problems"]
    assert absent == "requirements.txt: other.txt, which it names, is not there"
    newer = f"click>=999 ({version('click')} is)"
    older = f"pytest==0.1 ({version('pytest')} is)"
    assert unmet.startswith(f"requirements.txt: not installed: {newer}, {older}; give --install")


def test_requirements_that_are_installed_or_not_for_here_are_no_problem(tmp_path: Path) -> None:
    write(tmp_path, "def start(args): ...\n")
    lines = [
        "# needed",
        "Psutil>=5  # installed",
        "no-such-thing; sys_platform == 'win32'",
        "-r https://example.invalid/other.txt",
        "",
    ]
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    status, told = facts(tmp_path, "my_alg.py")
    assert (status, told["problems"]) == (0, [])


def test_the_descriptor_is_reported_or_its_error_with_the_line(tmp_path: Path) -> None:
    write(tmp_path, "def start(args): ...\n")
    descriptor = tmp_path / "algorithm.yml"
    descriptor.write_text("name: my-alg\nresources: {cpu: 0.5, mem: 512Mi}\ncode: {entryPoint: my_alg.py}\n")
    status, told = facts(tmp_path)
    assert (status, told["entry"]) == (0, "my_alg.py")
    assert told["descriptor"]["fields"] == {"name": "my-alg", "cpu": 0.5, "mem": "512Mi"}
    shown = run_hkrunner("validate", cwd=tmp_path)
    assert "descriptor: algorithm.yml: name my-alg, cpu 0.5, mem 512Mi, entry point my_alg.py" in shown.stdout
    descriptor.write_text("name: my-alg\nmem: 512\n")
    status, told = facts(tmp_path)
    assert status == 2
    assert told["problems"][0].startswith("algorithm.yml:2: ")
    shown = run_hkrunner("validate", cwd=tmp_path)
    assert (shown.status, shown.stdout) == (2, "")
    assert shown.stderr.startswith("hkrunner: algorithm.yml:2: ")


def test_two_entries_are_refused(tmp_path: Path) -> None:
    ended = run_hkrunner("validate", "a.py", "--entry", "b.py", cwd=tmp_path)
    assert (ended.status, "two entries" in ended.stderr) == (2, True)
