"""How TensorBoard is imported for a board."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from hkrunner.boards.tensorboard.tensorboard_parts import without_remote_files


def test_libraries_for_remote_files_are_not_imported_with_tensorboard_and_are_there_for_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("boto3", "fsspec"):
        (tmp_path / f"{name}.py").write_text("")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with without_remote_files():
        for name in ("boto3", "fsspec"):
            with pytest.raises(ImportError):
                importlib.import_module(name)
    for name in ("boto3", "fsspec"):
        assert importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
