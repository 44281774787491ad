"""Folders nested deeper than a function can call itself."""

from __future__ import annotations

import os
from pathlib import Path

from hkrunner.sandbox.linux.remove_tree import remove_tree
from hkrunner.sandbox.linux.walk_tree import walk_tree


def test_a_tree_is_walked_as_by_os_walk_however_deep_it_is(tmp_path: Path) -> None:
    for path in ("a/b/c", "a/hidden", "empty"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    (tmp_path / "link").symlink_to("a")
    found = {place: (sorted(folders), names) for place, folders, names in walk_tree(str(tmp_path))}
    assert found == {place: (sorted(folders), names) for place, folders, names in os.walk(tmp_path)}
    for _, folders, _ in walk_tree(str(tmp_path / "a")):
        folders[:] = [one for one in folders if one != "hidden"]
        assert "hidden" not in folders
    errors: list[OSError] = []
    assert list(walk_tree(str(tmp_path / "gone"), errors.append)) == []
    assert isinstance(errors[0], FileNotFoundError)
    deep = tmp_path / "deep"
    os.makedirs(deep)
    here = os.open(deep, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        here, before = os.open("d", os.O_RDONLY, dir_fd=here), here
        os.close(before)
    os.close(here)
    assert len(list(walk_tree(str(deep)))) == 1201
    remove_tree(str(deep))  # pytest's own way of removing it is recursive
