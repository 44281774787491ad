"""However the network is set up, a run works the same, or says in one sentence why it cannot."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.local import ALGORITHMS
from support.programs import HKRUNNER, run, run_hkrunner

ADDS = ALGORITHMS / "adds.py"
#: As in test_mounts.py.
NAMESPACES = (["unshare", "--net"], ["unshare", "--map-root-user", "--net"])


def _works(command: list[str]) -> bool:
    return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0


NAMESPACE = next(filter(_works, NAMESPACES), None)


@pytest.mark.parametrize("args", [(), ("--in-process",)], ids=" ".join)
@pytest.mark.parametrize("others", [{"no_proxy": None}, {"no_proxy": "example.org"}], ids=["all", "others"])
def test_a_proxy_is_not_asked_for_hkrunners_own_worker(
    others: dict[str, str | None], args: tuple[str, ...], tmp_path: Path
) -> None:
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"), "http://127.0.0.1:1")
    env = {**proxies, "NO_PROXY": None, **others}
    ended = run_hkrunner("-e", ADDS, "-i", "[1, 2]", "--no-state", *args, cwd=tmp_path, env=env)
    assert (ended.status, ended.stdout) == (0, "3\n"), ended.stderr


if NAMESPACE is not None:

    @pytest.mark.parametrize("args", [(), ("--in-process",), ("--parallel", "2")], ids=" ".join)
    def test_a_network_without_loopback_is_reported_in_one_sentence(
        args: tuple[str, ...], tmp_path: Path
    ) -> None:
        assert NAMESPACE is not None
        ended = run([*NAMESPACE, HKRUNNER, "-e", ADDS, "-i", "[1, 2]", "--no-state", *args], cwd=tmp_path)
        assert (ended.status, ended.stdout) == (1, "")
        (line,) = ended.stderr.splitlines()
        assert line.startswith("hkrunner: nothing can connect to hkrunner's own worker") and "lo up" in line
