"""A stream whose middle node is the listener and the producer of HKube's own wrapper for Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import python_wrapper
from support.ports import free_port
from support.programs import Program
from support.streams import node

# The first one installs the wrapper.
pytestmark = pytest.mark.timeout(400)
SCRIPT = Path(python_wrapper.MAIN).with_name("wrapper_stream.py")


@pytest.mark.parametrize("encoding", ["msgpack", "bson"])
def test_messages_pass_through_a_node_of_hkubes_wrapper(tmp_path: Path, encoding: str) -> None:
    python = python_wrapper.find_python()
    assert python is not None, python_wrapper.ABSENT
    interpreter, _ = python_wrapper.environment(python)
    values = [1, "ü", {"deep": [None, 1.5, {}]}, "raw:\x00ÿ", ["x" * 100_000]]
    port = free_port()
    with (
        node("A", tmp_path, DISCOVERY_ENCODING=encoding) as first,
        node("C", tmp_path, DISCOVERY_ENCODING=encoding) as last,
        Program([interpreter, "-u", SCRIPT, encoding, str(first.port), str(port)], cwd=tmp_path) as wrapper,
    ):
        last.begin("collects", len(values), parents=["B"])
        last.connect_to("B", port)
        first.begin("produces", values, children=["B"])
        assert last.result() == [[value, "B"] for value in values], wrapper.report()
        assert first.result() == len(values)
        # Bytes are sent as they are, and are bytes there, too.
        wrapper.wait_for_line(r"got A b'raw:\x00\xff' [{'source': 'B', 'next': ['C']}]", stream="stdout")
        (told,) = first.statistics
        assert (told["sent"], told["responses"], told["queueSize"]) == (len(values), len(values), 0)
        wrapper.kill()
