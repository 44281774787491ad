"""`hkrunner why`: what --sandbox strict allows by which rule, which is also what a run can do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support.local import ALGORITHMS
from support.programs import HKRUNNER, run, run_hkrunner
from support.sandboxes import BEST, needs_sandbox


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    shutil.copy(ALGORITHMS / "strict_opens.py", tmp_path / "code")
    for name in ("read", "written", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("text")
    (tmp_path / "code/link-out").symlink_to(tmp_path / "elsewhere/file")
    (tmp_path / "code/link-in").symlink_to(tmp_path / "read/file")
    (tmp_path / "code/locked").write_text("text")
    (tmp_path / "code/locked").chmod(0)
    return tmp_path


def options(folder: Path) -> list[str]:
    return ["code/strict_opens.py", "--read", "read", "--write", "written", "--net", "localhost:5432"]


@needs_sandbox
def test_what_is_answered_is_what_the_code_can_do(folder: Path) -> None:
    state = folder / ".hkrunner"
    state.mkdir()
    (state / "file").write_text("text")
    paths = [
        *(folder / one for one in ("code/strict_opens.py", "code/link-in", "code/link-out", "code/locked")),
        *(folder / one for one in ("read/file", "written/file", "elsewhere/file", ".hkrunner/file")),
        *("/etc/passwd", "/etc/shadow", "/dev/null", "/proc/self/status", os.__file__),
    ]
    command = [HKRUNNER, *options(folder), "--sandbox", "strict", "--sandbox-level", BEST]
    if BEST == "landlock":
        command[command.index("--net") :] = ["--sandbox", "strict", "--sandbox-level", BEST]
    ended = run([*command, "-i", json.dumps([str(one) for one in paths])], cwd=folder)
    assert ended.status == 0, ended
    real = dict(zip(map(str, paths), json.loads(ended.stdout), strict=True))
    questions = [word for path in real for word in ("--path", path)]
    asked = run_hkrunner("why", *questions, "--json", *options(folder), cwd=folder)
    assert asked.status == 1, asked
    found = {
        one["subject"]: [answer["allowed"] for answer in one["answers"]]
        for one in map(json.loads, asked.stdout.splitlines())
    }
    assert found == real


def test_the_answer_names_the_rule_and_the_option_that_opens_more(folder: Path) -> None:
    paths = ("read/file", "elsewhere/none", ".hkrunner/tasks")
    words = [word for path in paths for word in ("--path", path)]
    words += ["--net", "LOCALHOST:5432", "--net", "db.example:80"]
    ended = run_hkrunner("why", *words, *options(folder), cwd=folder)
    assert ended.stdout.splitlines() == [
        f"{folder}/read/file",
        f"  read     yes  --read: {folder}/read",
        f"  write    no   no rule opens it for writing; --write {folder}/read/file opens it",
        f"{folder}/elsewhere/none (there is no such file)",
        f"  read     no   no rule opens it; --read {folder}/elsewhere/none opens it",
        f"  write    no   no rule opens it for writing; --write {folder}/elsewhere/none opens it",
        f"{folder}/.hkrunner/tasks (there is no such file)",
        "  read     no   the records of tasks are hidden from the code",
        "  write    no   the records of tasks are hidden from the code",
        "localhost:5432",
        "  connect  yes  --net localhost:5432",
        "db.example:80",
        "  connect  no   no rule opens it; --net db.example:80 opens it",
    ]
    opened = ("why", "--path", "read/file", "--net", "localhost:5432", *options(folder))
    assert (ended.status, run_hkrunner(*opened, cwd=folder).status) == (1, 0)


def test_an_answer_that_a_weaker_accepted_level_would_change_says_at_which_it_holds(folder: Path) -> None:
    asked = ("--path", "/tmp", "--path", "/proc/1/cmdline", "--net", "127.0.0.1:80")
    run_options = ["code/strict_opens.py", "--sandbox-level", "landlock"]
    ended = run_hkrunner("why", *asked, *run_options, cwd=folder)
    assert "of its own, not that of the machine at the levels full and ns" in ended.stdout, ended
    assert "shows its own processes at the level full" in ended.stdout
    assert "those of the machine at the levels full and ns; --net 127.0.0.1:80" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "wants --path PATH or --net HOST:PORT"),
        (["--net", "db"], "--net wants HOST:PORT: it has no port"),
        (["--path", "/", "--", "--sandbox", "basic"], "with --sandbox basic the code may do what you may do"),
    ],
)
def test_a_question_that_has_no_answer_is_refused(folder: Path, arguments: list[str], text: str) -> None:
    ended = run_hkrunner("why", *arguments, cwd=folder / "code")
    assert (ended.status, text in ended.stderr) == (2, True), ended


def test_the_sandbox_is_explained_with_what_this_machine_holds() -> None:
    ended = run_hkrunner("explain", "sandbox", cwd=Path("/"))
    assert "\n  landlock " in ended.stdout
    assert ended.status == 0, ended
    text = " ".join(ended.stdout.split())
    assert ended.stdout.splitlines()[0] == "SANDBOX" and "--net none|all|HOST:PORT: what the code" in text
    state = "Possible here; " if BEST == "full" else "Nothing is left out. Not possible here: "
    assert f"full {state}" in text
