"""What a lost warden leaves below us is ended; what the program started for other purposes is not."""

from __future__ import annotations

import sys

from support.programs import run

#: Run in a process of its own, since it ends whatever is below it: an orphan, and a child that is spared.
PROGRAM = """
import os, subprocess, sys
from hkrunner.runner.io.loop import Loop
from hkrunner.sandbox.linux import kernel
from hkrunner.sandbox.parent import orphan_cleanup

kernel.become_subreaper()
sleep = [sys.executable, "-c", "import signal, time; signal.alarm(60); time.sleep(50)"]
spared = subprocess.Popen(sleep)
orphan_cleanup.spare(spared)
maker = "import subprocess; print(subprocess.Popen({!r}, stdout=2, start_new_session=True).pid)"
made = subprocess.run([sys.executable, "-c", maker.format(sleep)], stdout=subprocess.PIPE, check=True)
orphan = int(made.stdout)
loop = Loop()
found = []

def done(ended, left):
    found.extend((ended, left))
    loop.stop()

orphan_cleanup.OrphanCleanup(loop, spared=orphan_cleanup.spared, on_done=done).step()
if not found:
    loop.run()
ended, left = found
print([one.pid for one in ended] == [orphan], left, spared.poll(), os.path.exists(f"/proc/{orphan}"))
spared.kill()
spared.wait()
print(orphan_cleanup.spared())
"""


def test_orphans_are_ended_and_a_process_that_serves_another_purpose_is_not() -> None:
    ended = run([sys.executable, "-c", PROGRAM])
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout == "True [] None False\nfrozenset()\n"
