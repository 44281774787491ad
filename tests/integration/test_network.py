"""hkrunner sends nothing anywhere: a run with its records and a board talks to this machine alone."""

from __future__ import annotations

import json
from pathlib import Path

from support.programs import HKRUNNER, ROOT, run, run_hkrunner

# Written into the interpreter of hkrunner, its board and the algorithm: who is connected to, or asked for.
WATCHER = """
import json, os, sys

def told(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments[0] if event.startswith("socket.get") else arguments[1]
        with open(os.environ["WATCHED"], "a") as file:
            file.write(json.dumps([event, str(address)]) + "\\n")

sys.addaudithook(told)
"""
HERE = ("('127.0.0.1'", "('localhost'", "('::1'", "localhost", "127.0.0.1", "::1", "/", "b'/")


def test_a_run_with_a_board_connects_to_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCHER)
    watched = tmp_path / "watched"
    env = {"WATCHED": str(watched), "PYTHONPATH": str(tmp_path)}
    ended = run_hkrunner(ROOT / "examples" / "sum.py", "-i", "[1]", "--board", cwd=tmp_path, env=env)
    assert run([HKRUNNER, "board", "stop", "--all"], cwd=tmp_path, env=env).status == 0
    assert (ended.status, ended.stdout) == (0, "1\n"), ended
    seen = [json.loads(line) for line in watched.read_text().splitlines()]
    assert any("127.0.0.1" in address for _, address in seen), "the watcher sees nothing"
    assert [one for one in seen if not one[1].startswith(HERE)] == []
