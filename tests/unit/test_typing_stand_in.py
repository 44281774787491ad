"""The stand-in for typing: enough for our own modules, and removed before any other module is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hkrunner.sandbox import typing_stand_in
from hkrunner.sandbox.shared.channel import Frame
from hkrunner.sandbox.shared.entry import Location

ROOT = Path(typing_stand_in.__file__).parents[1]
#: Imports the modules of a role as start.py does, then names who else holds something of the stand-in.
PROGRAM = """
import sys
package = type(sys)("_hkrunner")
package.__path__ = [sys.argv[1]]
sys.modules["_hkrunner"] = package
from _hkrunner.sandbox import typing_stand_in as untyped
sys.modules["typing"] = untyped
import importlib
importlib.import_module("_hkrunner.sandbox." + sys.argv[2])
for name, module in list(sys.modules.items()):
    if not name.startswith("_hkrunner") and name not in ("typing", "__main__"):
        for key, value in list(vars(module).items()):
            if value is untyped or type(value) is untyped._Kind:
                print(name, key)
"""


@pytest.mark.parametrize("role", ["child.main", "warden.warden"])
def test_no_module_but_our_own_takes_anything_from_it(role: str) -> None:
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(ROOT), role]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_its_named_tuple_is_as_typings() -> None:
    class Point(typing_stand_in.NamedTuple):
        """Where."""

        x: int
        y: int = 2

        @property
        def total(self) -> int:
            return self.x + self.y

    made = Point(1)  # type: ignore[call-arg]
    assert made == (1, 2) and made._fields == ("x", "y") and repr(made) == "Point(x=1, y=2)"
    assert made.total == 3 and Point.__doc__ == "Where." and Point.__module__ == __name__
    for real in (Frame(1, 2), Location("folder", "module", "start", "file.py")):
        assert isinstance(real, tuple)


def test_its_names_are_of_a_kind_that_takes_anything_and_differ() -> None:
    from hkrunner.sandbox.typing_stand_in import Any, ClassVar, Union  # type: ignore[attr-defined]

    assert Union[int, str] is Union and Any is not ClassVar
    with pytest.raises(AttributeError):
        typing_stand_in.__wrapped__  # noqa: B018
