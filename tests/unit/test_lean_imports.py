"""A module that is imported late is loaded at its first use; libraries come without what they do not use."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from hkrunner.runner.io.lean_imports import import_late

import_late("importlib.metadata")
import importlib.metadata
assert "zipfile" not in sys.modules, "it was loaded by an import"
stand_in = importlib.metadata
assert stand_in.version("click")
assert "zipfile" in sys.modules
assert importlib.metadata is sys.modules["importlib.metadata"] is not stand_in
from importlib.metadata import distribution
assert stand_in.distribution is distribution

import_late("importlib.metadata")
assert importlib.metadata.distribution is distribution, "one that was imported stays"
import_late("no_such_module")
import no_such_module
try:
    no_such_module.anything
except ModuleNotFoundError as error:
    print(error)
"""


def test_a_module_is_loaded_at_its_first_use() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "No module named 'no_such_module'\n"), ended.stderr


@pytest.mark.parametrize("threads", [0, 2], ids=["alone", "beside threads of the user's"])
def test_msgspec_is_loaded_without_typing_extensions_unless_a_thread_may_import_it_meanwhile(
    threads: int,
) -> None:
    script = f"""
import sys, threading
from hkrunner.sandbox.codec import codec

end = threading.Event()
for _ in range({threads}):
    threading.Thread(target=end.wait).start()
codec.accelerate()
is_there = "typing_extensions" in sys.modules
import typing_extensions
end.set()
print(is_there, codec.decode("json", b"[1]"))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    is_there = threads > 0 or sys.version_info < (3, 11)
    assert (ended.returncode, ended.stdout) == (0, f"{is_there} [1]\n"), ended.stderr


def test_a_local_run_loads_nothing_that_only_unreleased_versions_of_websockets_use() -> None:
    script = "import sys, hkrunner.runner.worker_stub.server; print('zipfile' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stdout == "False\n", ended.stderr


def test_a_connection_needs_no_codec_that_a_thread_without_memory_could_not_import() -> None:
    """The resolver encodes names by idna, and makes a LookupError of an import that fails."""
    script = (
        "import sys, hkrunner.runner.link.connect as connect; connect.preload();"
        " print('encodings.idna' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stdout == "True\n", ended.stderr


def test_a_run_loads_no_module_that_only_reads_source_code() -> None:
    script = (
        "import sys\n"
        "from hkrunner.runner.io.lean_imports import import_late\n"
        "import_late('inspect')\n"
        "from hkrunner.runner.cli.main import command\n"
        "from hkrunner.runner.app import run\n"
        "from hkrunner.runner.link import connect\n"
        "from hkrunner.runner.serving import supervisor\n"
        "connect.preload()\n"
        "command.make_context('hkrunner', ['a.py', '-i', '1'])\n"
        "print('ast' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    # dataclasses itself uses inspect from Python 3.12 on.
    assert ended.stdout == f"{sys.version_info >= (3, 12)}\n", ended.stderr
