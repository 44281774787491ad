"""hkrunner in a mount namespace of its own: places that are full or cannot be written, and no /proc.

Where the kernel refuses such a namespace, as in a container without CAP_SYS_ADMIN, there are no such tests.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.local import ALGORITHMS
from support.programs import HKRUNNER, Result, run

ADDS = ALGORITHMS / "adds.py"
#: In a user namespace too: for one that is not root.
NAMESPACES = (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"])


def _works(command: list[str]) -> bool:
    mount = "mount -t tmpfs -o ro none /dev/shm"
    return subprocess.run([*command, "sh", "-c", mount], capture_output=True, check=False).returncode == 0


NAMESPACE = next(filter(_works, NAMESPACES), None)


def run_with(mounts: str, folder: Path, *args: str) -> Result:
    """Run a task in the folder, after a shell has executed the mounts with the folder as $HERE."""
    assert NAMESPACE is not None
    words = f'set -e; {mounts}; cd "$HERE"; exec "$0" "$@"'
    command = [*NAMESPACE, "sh", "-c", words, HKRUNNER, "-e", ADDS, "-i", "[1, 2]", *args]
    return run(command, cwd=folder, env={"HERE": str(folder)})


def full(place: str) -> str:
    return f"mount -t tmpfs -o size=4k none {place}; head -c 4096 /dev/zero > {place}/full"


def read_only(place: str) -> str:
    return f"mount -t tmpfs -o ro none {place}"


#: The working folder of a test may be below /tmp, which is covered: it is mounted once more.
COVER_TMP = 'mkdir -p /mnt; mount --bind "$HERE" /mnt; HERE=/mnt; {}'

if NAMESPACE is not None:

    @pytest.mark.parametrize("args", [(), ("--no-state",), ("--in-process",)], ids=" ".join)
    @pytest.mark.parametrize("make", [full, read_only])
    @pytest.mark.parametrize("place", ["/dev/shm", "/tmp"])
    def test_a_place_that_cannot_be_written_is_no_difference(
        place: str, make: object, args: tuple[str, ...], tmp_path: Path
    ) -> None:
        assert callable(make)
        mounts = make(place)
        ended = run_with(COVER_TMP.format(mounts) if place == "/tmp" else mounts, tmp_path, *args)
        assert (ended.status, ended.stdout) == (0, "3\n"), ended.stderr
        (line,) = ended.stderr.splitlines()
        assert "t1 done in" in line

    @pytest.mark.parametrize(
        ("make", "said"), [(full, "No space left on device"), (read_only, "Read-only file system (EROFS)")]
    )
    def test_a_state_folder_that_cannot_be_written_costs_no_result(
        make: object, said: str, tmp_path: Path
    ) -> None:
        assert callable(make)
        (tmp_path / ".hkrunner").mkdir()
        ended = run_with(make('"$HERE/.hkrunner"'), tmp_path)
        assert (ended.status, ended.stdout) == (0, "3\n"), ended.stderr
        assert said in ended.stderr and "the task goes on without" in ended.stderr
        assert "Traceback" not in ended.stderr

    @pytest.mark.parametrize("mounts", ["umount -l /proc", "mount -t tmpfs none /proc"])
    def test_a_machine_without_proc_is_one_sentence(mounts: str, tmp_path: Path) -> None:
        ended = run_with(mounts, tmp_path)
        assert ended.status == 1
        assert ended.stderr.startswith("hkrunner: /proc is not mounted; ") and ended.stdout == ""
        assert len(ended.stderr.splitlines()) == 1
