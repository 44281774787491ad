"""--env-file: what its lines mean, and how an invalid one is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from hkrunner.runner.errors import SettingsError
from hkrunner.runner.settings.env_file import read_variables
from hkrunner.runner.settings.from_options import settings_of
from hkrunner.runner.settings.options import OPTIONS


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=1", "1"),
        ("export A=1", "1"),
        ("  A = spaced out  ", "spaced out"),
        ("A=", ""),
        ("A= # nothing", ""),
        ("A=a#b # c", "a#b"),
        ("A=#b", "#b"),
        ("A=x=y", "x=y"),
        ("A='it $stays # so' # c", "it $stays # so"),
        (r"A='\n'", r"\n"),
        (r'A="two\nlines and \"quotes\" \\"', 'two\nlines and "quotes" \\'),
        ('A=say "hi"', 'say "hi"'),
        ("A=1\r", "1"),
        ("A=ä", "ä"),
    ],
)
def test_a_line_sets_a_variable(line: str, value: str, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(f"\ufeff# first\n\n{line}\n".encode())
    assert read_variables(str(file)) == {"A": value}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("secret", "not NAME=VALUE"),
        ("=secret", "not NAME=VALUE"),
        ("A B=secret", "not NAME=VALUE"),
        ('A="secret', "A: the quote does not end on its line"),
        ("A='secret' more", "A: something follows the closing quote"),
        ("A=sec\0ret", "A: a variable cannot hold a null character"),
    ],
)
def test_a_line_that_sets_nothing_is_reported_by_its_number_and_not_shown(
    line: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "env").write_text(f"B=1\n{line}\n")
    with pytest.raises(SettingsError) as caught:
        read_variables(str(tmp_path / "env"))
    assert str(caught.value) == f"--env-file {tmp_path}/env, line 2: {sentence}"
    assert "secret" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"A=\xe4\n")
    for name, sentence in [("none", "No such file"), ("latin", "not UTF-8"), (".", "Is a directory")]:
        with pytest.raises(SettingsError, match=sentence):
            read_variables(str(tmp_path / name))


def test_a_flag_overrides_the_files_and_they_the_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "algorithm.json").write_text(
        '{"name": "alg", "algorithmEnv": {"A": "0", "B": "0", "C": "0", "D": "0"}}'
    )
    (tmp_path / "one").write_text("A=1\nB=1\nC=1\n")
    (tmp_path / "two").write_text("A=2\nB=2\n")
    values = {option.name: option.default for option in OPTIONS}
    values.update(env_file=("one", "two"), env=("A=3",), file="algorithm.json")
    assert settings_of(values, {}).code.variables == {"A": "3", "B": "2", "C": "1", "D": "0"}
