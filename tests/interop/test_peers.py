"""Results in memory: hkrunner with storage v3 beside the data server and client of HKube's Python wrapper."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support import hkube_peer, python_wrapper
from support.ports import free_ports
from support.programs import Program
from support.serving_v3 import serving_v3

# The first test installs the wrapper.
pytestmark = pytest.mark.timeout(400)


def test_results_are_read_from_hkubes_data_server_and_served_to_its_client(tmp_path: Path) -> None:
    python = python_wrapper.find_python()
    assert python is not None, python_wrapper.ABSENT
    interpreter, _ = python_wrapper.environment(python)
    theirs, ours = free_ports(), free_ports()
    command: list[str | Path] = [interpreter, "-u", hkube_peer.__file__]
    served = {"DISCOVERY_ENABLE": "true", "DISCOVERY_PORT": str(ours), "POD_IP": "127.0.0.1"}
    served["DISCOVERY_NETWORK_TIMEOUT"] = "10000"
    with (
        subprocess.Popen([*command, "serve", str(theirs)], stdin=-1, stdout=-1, text=True) as server,
        serving_v3(tmp_path, **served) as one,
    ):
        assert server.stdin is not None and server.stdout is not None
        while server.stdout.readline() != "serving\n":
            assert server.poll() is None
        where = {"host": "127.0.0.1", "port": str(theirs)}
        one.storage.put("t3", {"a": "from the storage"})
        links = {
            "aaaaaaaa": {"discovery": where, "taskId": "t1", "path": "a.1.b", "metadata": {}},
            "bbbbbbbb": [{"discovery": where, "tasks": ["t2", "t3", "t1"], "path": ""}],
            "cccccccc": [{"discovery": where, "tasks": ["t3", "t1"], "path": "a"}],
        }
        whole = {"a": [1, {"b": "deep"}]}
        for _ in range(2):  # the second time from memory
            result = one.run(["give", ["$$aaaaaaaa", "$$bbbbbbbb", "$$cccccccc"]], links)
            assert result == [
                "deep",
                [b"raw", {"a": "from the storage"}, whole],
                ["from the storage", whole["a"]],
            ]
        assert one.storing["discovery"] == {"host": "127.0.0.1", "port": ours}
        assert one.storing["taskId"] == "task2"
        one.run(["give", {"nothing": None}], savePaths=[])  # nobody asks for this one
        assert "discovery" not in one.storing
        one.run(["give", "a text"])
        with Program([*command, "ask", str(ours), "task4", "zz", "task3"], cwd=tmp_path) as client:
            assert client.wait() == 0, client.report()
        missing = {"hkube_error": {"code": "notAvailable", "message": "taskId notAvailable"}}
        assert json.loads(client.stdout[-1]) == ["a text", missing, missing]
        one.client.expect("servingStatus")
        server.stdin.close()
