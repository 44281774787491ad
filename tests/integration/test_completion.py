"""`hkrunner completion`: commands, and run's options where no command was typed; `hkrunner version`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.programs import HKRUNNER, run, run_hkrunner

BASH = """
eval "$("$0" completion bash)"
COMP_WORDS=(hkrunner "$@")
COMP_CWORD=$#
compopt() { echo "(files)"; }
_hkrunner_completion "$0"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(*words: str, cwd: Path) -> set[str]:
    """Return what bash offers for the last word."""
    ended = run(["bash", "--norc", "-c", BASH, HKRUNNER, *words], cwd=cwd)
    assert (ended.status, ended.stderr) == (0, ""), ended
    return set(ended.stdout.split("\n")) - {""}


def test_the_first_word_is_a_command_or_a_file(tmp_path: Path) -> None:
    assert completed("ru", cwd=tmp_path) == {"run", "runs", "(files)"}
    assert completed("doc", cwd=tmp_path) == {"doctor", "(files)"}


@pytest.mark.parametrize(
    "words", [("--time",), ("--mem", "1Gi", "--time"), ("my_alg.py", "--time"), ("run", "--time")]
)
def test_options_of_run_are_offered_with_and_without_its_name(words: tuple[str, ...], tmp_path: Path) -> None:
    assert completed(*words, cwd=tmp_path) == {"--timeout"}


def test_options_of_the_group_are_offered_beside_them(tmp_path: Path) -> None:
    assert (
        {"--version", "--verbose", "--help"} >= completed("--ver", cwd=tmp_path) >= {"--version", "--verbose"}
    )


def test_values_of_options_are_offered(tmp_path: Path) -> None:
    assert completed("--encoding", "b", cwd=tmp_path) == {"bson"}
    assert completed("--entry", "my", cwd=tmp_path) == {"(files)"}
    assert completed("run", "my", cwd=tmp_path) == {"(files)"}
    assert completed("completion", "", cwd=tmp_path) == {"bash", "zsh", "fish"}


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "complete -o nosort -F _hkrunner_completion hkrunner"),
        ("zsh", "#compdef hkrunner"),
        ("fish", "complete --no-files --command hkrunner"),
    ],
)
def test_each_shell_gets_its_script_and_nothing_else(shell: str, line: str, tmp_path: Path) -> None:
    # Not even bash is needed to print it.
    ended = run_hkrunner("completion", shell, cwd=tmp_path, env={"PATH": os.devnull})
    assert (ended.status, ended.stderr) == (0, "")
    assert line in ended.stdout
    assert f"_HKRUNNER_COMPLETE={shell}_complete" in ended.stdout


def test_another_shell_is_refused(tmp_path: Path) -> None:
    assert run_hkrunner("completion", "tcsh", cwd=tmp_path).status == 2


def test_version_is_a_command_and_an_option(tmp_path: Path) -> None:
    ended = run_hkrunner("version", cwd=tmp_path)
    assert ended.status == 0
    assert ended.stdout == run_hkrunner("--version", cwd=tmp_path).stdout != ""
