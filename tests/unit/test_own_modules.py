"""Modules of ours are found again where the user's code has emptied sys.modules."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from hkrunner.sandbox.child.own_modules import OwnModules


def test_a_module_that_was_taken_out_of_sys_modules_is_the_same_when_it_is_imported_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ours_for_a_test").mkdir()
    for name in ("__init__", "first", "second"):
        (tmp_path / "ours_for_a_test" / f"{name}.py").write_text("made = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    first = importlib.import_module("ours_for_a_test.first")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, OwnModules("ours_for_a_test")])
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(tmp_path)])
    for name in ("ours_for_a_test", "ours_for_a_test.first"):
        del sys.modules[name]
    assert importlib.import_module("ours_for_a_test.first") is first
    assert importlib.import_module("ours_for_a_test.second").made == [], "one that was not imported before"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("ours_for_a_test_2")
    for name in [one for one in sys.modules if one.startswith("ours_for_a_test")]:
        del sys.modules[name]
