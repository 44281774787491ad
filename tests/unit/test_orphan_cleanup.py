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


#: As process 1 of a container gets them: what others have started, and then left.
ADOPTING = """
import os, signal, subprocess, sys, time
from hkrunner.sandbox.linux import kernel
from hkrunner.sandbox.parent import orphan_cleanup

kernel.become_subreaper()
orphan_cleanup.REAP_S = 0.02

def left(words):
    made = subprocess.run(f"{words} >/dev/null & echo $!", shell=True, stdout=subprocess.PIPE, check=True)
    return int(made.stdout)

def ended(pid, number=0):
    os.kill(pid, number)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid

own = subprocess.Popen(["sh", "-c", "exit 3"])
orphan_cleanup.spare(own)
dead, lives = left("sleep 50"), left("sleep 50")
ended(own.pid), ended(dead, signal.SIGKILL)
begin = time.monotonic()
while orphan_cleanup.adopt(frozenset()):
    pass
print(time.monotonic() - begin >= orphan_cleanup.REAP_S, end=" ")
print(os.path.exists(f"/proc/{dead}"), lives in orphan_cleanup.spared(), own.wait())
warden = subprocess.Popen(["true"])
orphan = left("sleep 50")
orphan_cleanup.adopt(frozenset([ended(warden.pid)]))
print(orphan in orphan_cleanup.spared(), warden.wait())
for pid in (lives, orphan):
    ended(pid, signal.SIGKILL)
while orphan_cleanup.adopt(frozenset()):
    pass
print([os.path.exists(f"/proc/{pid}") for pid in (lives, orphan)], orphan_cleanup.spared())
"""


def test_what_others_leave_to_this_process_is_reaped_and_is_no_orphan_of_a_warden_that_lives() -> None:
    told = run([sys.executable, "-c", ADOPTING])
    assert (told.status, told.stderr) == (0, "")
    assert told.stdout == "True False True 3\nFalse 0\n[False, False] frozenset()\n"


OBEYING = """
import os, subprocess
from hkrunner.runner.app.run_signals import obey_signals
from hkrunner.runner.io.loop import Loop
from hkrunner.sandbox.linux import kernel
from hkrunner.sandbox.parent import orphan_cleanup, warded_child

kernel.become_subreaper()
orphan_cleanup.REAP_S = warded_child.REAP_S = 0.01
loop = Loop()
obey_signals(loop, print)
made = subprocess.run("true & echo $!", shell=True, stdout=subprocess.PIPE, check=True)

def look():
    if os.path.exists(f"/proc/{int(made.stdout)}"):
        loop.after(0.01, look)
    else:
        loop.stop()

loop.after(0, look)
loop.run()
print("reaped")
"""


def test_what_others_leave_is_reaped_while_the_command_waits_for_something_else() -> None:
    told = run([sys.executable, "-c", OBEYING])
    assert (told.status, told.stdout, told.stderr) == (0, "reaped\n", "")
