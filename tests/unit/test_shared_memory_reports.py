"""What os.mkdir(), open() and the like in the algorithm's process report of shared memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPORT = """
import os, pathlib, pickle, socket, stat, sys, tempfile
from hkrunner.sandbox.child.shared_memory_reports import report_shared_memory
reading, writing = os.pipe2(os.O_NONBLOCK)
report_shared_memory(writing)

def reported():
    try:
        return os.read(reading, 65536).split(b"\\0")[:-1]
    except BlockingIOError:
        return []
"""


def in_a_process(action: str, *args: object) -> None:
    command = [sys.executable, "-c", REPORT + action, *map(str, args)]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize(
    "make",
    [
        "os.mkdir(sys.argv[1] + '/made')",
        "os.mkdir(os.fsencode(sys.argv[1] + '/made'))",
        "os.mkdir(path=pathlib.Path(sys.argv[1], 'made'), mode=0o700)",
        "os.makedirs(sys.argv[1] + '/made')",
        "pathlib.Path(sys.argv[1], 'made').mkdir()",
        "os.chdir(sys.argv[1]); os.mkdir('made')",
        "tempfile.mkdtemp(dir=sys.argv[1])",
        "pid = os.fork() or os._exit(os.mkdir(sys.argv[1] + '/made') or 0); os.waitpid(pid, 0)",
        "os.mkfifo(sys.argv[1] + '/made')",
        "os.symlink('/etc/passwd', sys.argv[1] + '/made')",
        "tempfile.NamedTemporaryFile(dir=sys.argv[1], delete=False).close()",
        "os.close(os.open(path=sys.argv[1] + '/made', flags=os.O_CREAT | os.O_EXCL))",
        "pathlib.Path(sys.argv[1], 'made').symlink_to('/etc')",
    ],
)
def test_each_way_to_make_a_folder_a_pipe_a_link_or_a_file_of_its_own_is_reported(make: str) -> None:
    action = f"""
{make}
(name,) = os.listdir(sys.argv[1])
path = os.path.join(sys.argv[1], name)
facts = os.lstat(path)
(os.rmdir if stat.S_ISDIR(facts.st_mode) else os.unlink)(path)
assert reported() == [b"%d %d %s" % (facts.st_dev, facts.st_ino, os.fsencode(path))]
"""
    folder = Path(f"/dev/shm/hkrunner_unit_made_{os.getpid()}")
    folder.mkdir()
    try:
        in_a_process(action, folder)
    finally:
        folder.rmdir()


@pytest.mark.parametrize(
    "make",
    [
        "open(path, 'w').close()",
        "open(pathlib.Path(path), 'wb').close()",
        "os.close(os.open(path.encode(), os.O_CREAT | os.O_RDWR))",
        "os.chdir(sys.argv[1]); open('made', 'a').close()",
        "socket.socket(socket.AF_UNIX).bind(path)",
    ],
)
def test_each_way_to_make_a_file_is_reported_before_it_is_there(make: str) -> None:
    action = f"""
path = sys.argv[1] + "/made"
{make}
open(path + "", "r+").close() if os.path.isfile(path) else None
assert reported() == [b"- - " + path.encode()], "once: it was there when it was opened again"
if os.path.isfile(path):
    facts = os.stat(path)
    os.replace(path, path + "_too")
    assert reported() == [b"%d %d %s_too" % (facts.st_dev, facts.st_ino, path.encode())]
    path += "_too"
os.unlink(path)
"""
    folder = Path(f"/dev/shm/hkrunner_unit_file_{os.getpid()}")
    folder.mkdir()
    try:
        in_a_process(action, folder)
    finally:
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()


def test_a_file_that_must_be_new_is_not_reported_since_another_program_may_make_it_first() -> None:
    folder = Path(f"/dev/shm/hkrunner_unit_new_{os.getpid()}")
    folder.mkdir()
    try:
        in_a_process(
            "path = sys.argv[1] + '/made'\nopen(path, 'xb').close()\nassert not reported()\nos.unlink(path)",
            folder,
        )
    finally:
        folder.rmdir()


def test_elsewhere_only_multiprocessings_folder_is_reported_and_errors_are_as_they_were(
    tmp_path: Path,
) -> None:
    action = """
os.mkdir(sys.argv[1] + "/made", dir_fd=None)
open(sys.argv[1] + "/file", "w").close()
os.rename(sys.argv[1] + "/file", sys.argv[1] + "/renamed")
sys.audit("open", 1), sys.audit("open", object(), None, os.O_CREAT), sys.audit("socket.bind", 1)
taken = (sys.argv[1] + "/made", FileExistsError)
for path, kind in (taken, ("/dev/shm", FileExistsError), ("a\\0b", ValueError), (None, TypeError)):
    try:
        os.mkdir(path)
    except kind:
        continue
    raise AssertionError(path)
assert reported() == []
from multiprocessing.util import get_temp_dir
os.environ["TMPDIR"] = sys.argv[1]
own = get_temp_dir()
assert reported() == [b"%d %d %s" % (os.stat(own).st_dev, os.stat(own).st_ino, os.fsencode(own))]
assert pickle.loads(pickle.dumps(os.mkdir)) is os.mkdir and os.mkdir in os.supports_dir_fd
"""
    in_a_process(action, tmp_path)


def test_a_descriptor_that_is_another_file_by_now_is_not_written_to(tmp_path: Path) -> None:
    action = """
file = os.open(sys.argv[1] + "/file", os.O_CREAT | os.O_RDWR)
os.dup2(file, writing)
os.rmdir(tempfile.mkdtemp(dir="/dev/shm"))
os.close(writing)
os.rmdir(tempfile.mkdtemp(dir="/dev/shm"))
assert os.fstat(file).st_size == 0
"""
    in_a_process(action, tmp_path)


def test_a_pipe_that_is_full_or_has_no_reader_is_no_error() -> None:
    action = """
import signal
os.write(writing, bytes(65536))
os.rmdir(tempfile.mkdtemp(dir="/dev/shm"))
os.close(reading)
os.rmdir(tempfile.mkdtemp(dir="/dev/shm"))
"""
    in_a_process(action)


def test_a_file_that_was_there_when_it_was_opened_for_writing_is_reported_as_such_once() -> None:
    action = """
path = "/dev/shm/hkrunner_unit_there_%d" % os.getpid()
os.posix_spawn("/bin/sh", ["sh", "-c", "echo x > " + path], {}); os.wait()
facts = os.stat(path)
for mode in ("rb", "r+b", "ab", "wb"):
    open(path, mode).close()
try:
    assert reported() == [b"%d=%d %d " % (os.getpid(), facts.st_dev, facts.st_ino)]
finally:
    os.unlink(path)
"""
    in_a_process(action)


def test_shared_memory_of_multiprocessing_is_reported_when_it_is_made_and_when_it_was_there() -> None:
    action = """
import _posixshmem
from multiprocessing import shared_memory
name = "hkrunner_unit_mp_%d" % os.getpid()
one = shared_memory.SharedMemory(create=True, size=10, name=name)
facts = os.stat("/dev/shm/" + name)
own = [b"%d %d /dev/shm/%s" % (facts.st_dev, facts.st_ino, name.encode())]
assert reported() == own
other = shared_memory.SharedMemory(name=name)
assert reported() == []
if os.fork() == 0:
    shared_memory.SharedMemory(name=name).close()
    os._exit(0)
pid, status = os.wait()
assert status == 0 and reported() == [b"%d=%d %d " % (pid, facts.st_dev, facts.st_ino)]
other.close(), one.close(), one.unlink()
try:
    shared_memory.SharedMemory(name=name)
    raise AssertionError(name)
except FileNotFoundError:
    assert reported() == []
"""
    in_a_process(action)
