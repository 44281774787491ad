"""hkrunner in a mount namespace of its own: places that are full or cannot be written, and no /proc.

Where the kernel refuses such a namespace, as in a container without CAP_SYS_ADMIN, there are no such tests.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.local import ALGORITHMS
from support.programs import HKRUNNER, ROOT, Result, run

ADDS = ALGORITHMS / "adds.py"
#: In a user namespace too: for one that is not root.
NAMESPACES = (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"])
#: Not possible in a user namespace alone.
PROCESSES_ONLY = "mount -t proc -o subset=pid proc /proc"


def _works(command: list[str], mount: str = "mount -t tmpfs -o ro none /dev/shm") -> bool:
    return subprocess.run([*command, "sh", "-c", mount], capture_output=True, check=False).returncode == 0


NAMESPACE = next(filter(_works, NAMESPACES), None)


def run_with(mounts: str, folder: Path, *args: str) -> Result:
    """Run a task in the folder, after a shell has executed the mounts with the folder as $HERE."""
    assert NAMESPACE is not None
    words = f'set -e; {mounts}; cd "$HERE"; exec "$0" "$@"'
    command = [*NAMESPACE, "sh", "-c", words, HKRUNNER, "-e", ADDS, "-i", "[1, 2]", *args]
    return run(command, cwd=folder, env={"HERE": str(folder)})


def full(place: str, keep: str = ":") -> str:
    return f"mount -t tmpfs -o size=4k none {place}; {keep}; head -c 4096 /dev/zero > {place}/full"


def read_only(place: str, keep: str = ":") -> str:
    return f"mount -t tmpfs none {place}; {keep}; mount -o remount,ro {place}"


def covering_tmp(make: Callable[[str, str], str]) -> str:
    """Make /tmp so. What the test needs may lie below it, and is mounted again: its folder, us, Python."""
    needed = [place for place in (ROOT, Path(sys.prefix)) if place.is_relative_to("/tmp")]
    before = ["mount -t tmpfs none /mnt; mkdir /mnt/here", 'mount --bind "$HERE" /mnt/here; HERE=/mnt/here']
    again = [":"]
    for number, place in enumerate(needed):
        before.append(f"mkdir /mnt/{number}; mount --bind {place} /mnt/{number}")
        again.append(f"mkdir -p {place}; mount --bind /mnt/{number} {place}")
    return "; ".join((*before, make("/tmp", "; ".join(again))))


if NAMESPACE is not None:

    @pytest.mark.parametrize("args", [(), ("--no-state",), ("--in-process",)], ids=" ".join)
    @pytest.mark.parametrize("make", [full, read_only])
    @pytest.mark.parametrize("place", ["/dev/shm", "/tmp"])
    def test_a_folder_that_cannot_be_written_makes_no_difference(
        place: str, make: Callable[..., str], args: tuple[str, ...], tmp_path: Path
    ) -> None:
        ended = run_with(covering_tmp(make) if place == "/tmp" else make(place), tmp_path, *args)
        assert (ended.status, ended.stdout) == (0, "3\n"), ended.stderr
        (line,) = ended.stderr.splitlines()
        assert "t1 done in" in line

    @pytest.mark.parametrize(
        ("make", "said"), [(full, "No space left on device"), (read_only, "Read-only file system (EROFS)")]
    )
    def test_a_state_folder_that_cannot_be_written_does_not_fail_the_task(
        make: object, said: str, tmp_path: Path
    ) -> None:
        assert callable(make)
        (tmp_path / ".hkrunner").mkdir()
        ended = run_with(make('"$HERE/.hkrunner"'), tmp_path)
        assert (ended.status, ended.stdout) == (0, "3\n"), ended.stderr
        assert said in ended.stderr and "the task goes on without" in ended.stderr
        assert "Traceback" not in ended.stderr

    @pytest.mark.parametrize(
        ("mounts", "said"),
        [
            ("umount -l /proc", "/proc is not mounted; "),
            ("mount -t tmpfs none /proc", "/proc is not mounted; "),
            *[(PROCESSES_ONLY, "/proc shows nothing but processes ")] * _works(NAMESPACE, PROCESSES_ONLY),
        ],
    )
    def test_a_machine_without_all_of_proc_is_reported_in_one_sentence(
        mounts: str, said: str, tmp_path: Path
    ) -> None:
        ended = run_with(mounts, tmp_path)
        assert ended.status == 1
        assert ended.stderr.startswith(f"hkrunner: {said}") and ended.stdout == ""
        assert len(ended.stderr.splitlines()) == 1

    @pytest.mark.parametrize("args", [(), ("--in-process",)], ids=" ".join)
    def test_the_proc_of_another_pid_namespace_is_reported_in_one_sentence(
        args: tuple[str, ...], tmp_path: Path
    ) -> None:
        """Its processes were taken for the algorithm's, and their memory for its memory."""
        assert NAMESPACE is not None
        command = [*NAMESPACE, "--pid", "--fork", HKRUNNER, "-e", ADDS, "-i", "[1, 2]", "--no-state", *args]
        ended = run(command, cwd=tmp_path)
        assert (ended.status, ended.stdout) == (1, "")
        (line,) = ended.stderr.splitlines()
        assert line.startswith("hkrunner: /proc shows the processes of another pid namespace; ")
