"""Modules of ours are found again where the user's code has emptied sys.modules."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from hkrunner.sandbox.child import own_modules
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


ROOT = Path(own_modules.__file__).parents[2]
#: Loads the child as start.py does, then every module of its own that it may need later. Before that, what is
#: loaded is forgotten, and the user's code has a file for each module of the standard library.
LATE = """
import sys
bare = {*sys.modules, *sys.builtin_module_names, "copyreg", "functools"}  # the last two for _pickle
package = type(sys)("_hkrunner")
package.__path__ = [sys.argv[1]]
sys.modules["_hkrunner"] = package
if sys.version_info >= (3, 10):
    from _hkrunner.sandbox import typing_stand_in as untyped
    sys.modules["typing"] = untyped
import _hkrunner.sandbox.child.main
from _hkrunner.sandbox.child.own_modules import keep_own_modules
import importlib
if sys.version_info >= (3, 10):
    del sys.modules["typing"]
keep_own_modules()
for name in list(sys.modules):
    if not name.startswith("_hkrunner") and name not in bare:
        del sys.modules[name]
class Users:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if path is None and not name.startswith("_"):
            print(name)
sys.meta_path.insert(0, Users)
for name in sys.argv[2:]:
    importlib.import_module("_hkrunner." + name)
"""
#: The first two run in the command's own process, the third is loaded with main, the last is not the child's.
OTHERS = "child/in_user_process.py", "child/debugger.py", "child/pool_task_server.py", "shared/net_target.py"


def test_no_module_of_ours_that_is_imported_late_imports_a_file_of_the_users() -> None:
    late = [
        f"sandbox.{path.parent.name}.{path.stem}"
        for folder in ("child", "codec", "shared")
        for path in sorted((ROOT / "sandbox" / folder).glob("[a-z]*.py"))
        if f"{folder}/{path.name}" not in OTHERS
    ]
    assert "sandbox.child.stream" in late and "sandbox.child.fork_log_hub" in late
    command = [sys.executable, "-I", "-S", "-c", LATE, str(ROOT), *late]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
