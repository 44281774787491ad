"""Records of forked processes: what travels, what is set up when, and what happens when it cannot be."""

from __future__ import annotations

import logging
import sys
import termios
import threading
import time
from dataclasses import dataclass

import pytest
from hkrunner.sandbox.child import fork_log_pipes, fork_log_records
from support.programs import Result, run

BEGIN = """
import logging, os, sys, threading
from hkrunner.sandbox.child import fork_logging
fork_logging.watch()
def fork(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
def threads():
    return sorted(one.name for one in threading.enumerate())
"""


def script(text: str) -> Result:
    ended = run([sys.executable, "-W", "ignore", "-c", BEGIN + text])
    assert ended.status == 0, ended.stderr
    return ended


def travelled(record: logging.LogRecord) -> logging.LogRecord:
    frame = fork_log_records.packed(7, record)
    number, there = fork_log_records.unpacked(frame[fork_log_records.LENGTH.size :])
    assert number == 7 and isinstance(there, logging.LogRecord)
    return there


def record(message: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("name", logging.INFO, "file.py", 3, message, (), None)
    made.__dict__.update(more)
    return made


@dataclass
class Point:
    x: int


@pytest.mark.parametrize("message", ["text", "", "ü\ud800", {"a": [1]}, Point(3), None, b"\xff", 1.5])
def test_a_record_arrives_as_it_was(message: object) -> None:
    sent = record(message, extra=[1, {"b": None}], exc_text="Traceback")
    assert travelled(sent).__dict__ == sent.__dict__


def test_what_cannot_be_pickled_arrives_as_text() -> None:
    lock = threading.Lock()
    there = travelled(record("text", lock=lock, count=3)).__dict__
    assert (there["lock"], there["count"]) == (str(lock), 3)


def test_an_object_without_a_text_arrives_by_its_name() -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert travelled(record(Mute())).getMessage() == "<Mute>"


def test_nothing_is_set_up_without_logging_and_handlers() -> None:
    told = script("fork(lambda: None); print(threads(), 'multiprocessing' in sys.modules)")
    assert told.stdout == "['MainThread'] False\n"
    told = script("logging.getLogger('a'); fork(lambda: None); print(threads())")
    assert told.stdout == "['MainThread']\n"


def test_the_first_fork_that_finds_handlers_starts_one_thread() -> None:
    told = script(
        "logging.getLogger('a').addHandler(logging.StreamHandler()); before = threads()\n"
        "for _ in range(3): fork(lambda: None)\n"
        "print(before, threads())"
    )
    assert told.stdout == "['MainThread'] ['MainThread', 'hkrunner-records']\n"


def test_without_the_package_records_leave_as_they_did() -> None:
    told = script(
        "sys.modules['multiprocessing_logging'] = None; logging.basicConfig(format='%(message)s')\n"
        "fork(lambda: logging.warning('from a fork')); print(threads())"
    )
    assert (told.stdout, told.stderr) == ("['MainThread']\n", "from a fork\n")


def test_records_are_out_after_drain() -> None:
    told = script(
        "logging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
        "fork(lambda: [logging.warning(number) for number in range(100)])\n"
        "fork_logging.drain(); print('drained', flush=True)"
    )
    assert told.stdout.split() == [*map(str, range(100)), "drained"]


def test_flushes_that_nothing_answers_take_no_memory() -> None:
    told = script(
        "logging.basicConfig(); fork(lambda: None); hub = fork_logging._hub; os.close(hub._outer.fd)\n"
        "for _ in range(3): fork_logging.drain()\n"
        "print(hub._reader._expected)"
    )
    assert told.stdout == "{}\n"


def test_records_are_out_at_the_end_of_the_program() -> None:
    told = script("logging.basicConfig(format='%(message)s'); fork(lambda: logging.warning('x' * 60000))")
    assert told.stderr == "x" * 60000 + "\n"


def test_a_fork_that_lives_longer_than_the_program_still_logs() -> None:
    told = script(
        "logging.basicConfig(format='%(message)s'); again, go_on = os.pipe(); logged, say = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    logging.warning('while it runs')\n"
        "    os.write(say, b'.'); os.close(go_on); os.read(again, 1)\n"
        "    logging.warning('after it')\n"
        "    os._exit(0)\n"
        "os.read(logged, 1)"
    )
    assert sorted(told.stderr.splitlines()) == ["after it", "while it runs"]


def test_no_record_is_lost_while_the_program_ends() -> None:
    told = script(
        "logging.basicConfig(format='%(message)s'); logged, say = os.pipe()\n"
        "for number in range(4):\n"
        "    if os.fork() == 0:\n"
        "        for count in range(1500):\n"
        "            logging.warning('%d-%d', number, count)\n"
        "            if count == 10: os.write(say, b'.')\n"
        "        os._exit(0)\n"
        "for _ in range(4): os.read(logged, 1)"
    )
    assert sorted(told.stderr.split()) == sorted(f"{one}-{two}" for one in range(4) for two in range(1500))


def test_a_handler_that_raises_does_not_end_the_records() -> None:
    told = script(
        "class Bad(logging.Handler):\n"
        "    def emit(self, record): raise RuntimeError('bad handler')\n"
        "for one in Bad(), logging.StreamHandler(sys.stdout): logging.getLogger().addHandler(one)\n"
        "fork(lambda: [logging.warning('one'), logging.warning('two')]); fork_logging.drain()"
    )
    assert told.stdout == "one\ntwo\n" and told.stderr.count("RuntimeError: bad handler") == 2


def test_a_signal_handler_may_log_in_the_middle_of_a_record() -> None:
    told = script(
        "import signal\n"
        "logging.basicConfig(stream=sys.stdout, format='%(message).5s %(process)d')\n"
        "def work():\n"
        "    signal.signal(signal.SIGALRM, lambda *_: logging.warning('alarm'))\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n"
        "    for _ in range(300): logging.warning('whole' + 'x' * 200000)\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "fork(work); fork_logging.drain()"
    )
    lines = [line.split()[0] for line in told.stdout.splitlines()]
    assert lines.count("whole") == 300 and set(lines) == {"whole", "alarm"}


def test_threads_that_fork_and_log_at_once_do_not_hold_each_other_up() -> None:
    began = time.monotonic()
    told = script(
        "logging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
        "def many(number):\n"
        "    for count in range(20):\n"
        "        fork(lambda: logging.warning('fork %d %d', number, count)); logging.warning('main')\n"
        "running = [threading.Thread(target=many, args=(number,)) for number in range(4)]\n"
        "for one in running: one.start()\n"
        "for one in running: one.join()\n"
    )
    lines = told.stdout.splitlines()
    expected = {f"fork {number} {count}" for number in range(4) for count in range(20)}
    assert lines.count("main") == 80 and expected <= set(lines) and len(lines) == 160
    assert time.monotonic() - began < 20


def test_what_is_left_in_a_pipe_is_asked_for_by_this_machines_number() -> None:
    assert termios.FIONREAD == fork_log_pipes._FIONREAD
