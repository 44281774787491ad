"""Every end of a process is reported in one sentence: the code, numbers with units, the option, a remedy."""

from __future__ import annotations

import resource

import pytest
from hkrunner.sandbox.shared.messages import ProcessMemory
from hkrunner.sandbox.shared.outcome import (
    Cause,
    Exit,
    LimitBreach,
    left_behind,
    place_of,
    report,
    sentence,
    signal_name,
)

MI = 1 << 20
BREACH = LimitBreach(
    257 * MI, 256 * MI, 3.4, (ProcessMemory(7, "python", 250 * MI), ProcessMemory(8, "worker", 7 * MI))
)


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_code_and_a_sentence_and_a_status(cause: Cause) -> None:
    one = Exit(cause, code=3, signal=11, detail="2 s", breach=BREACH)
    told = sentence(one)
    assert told.startswith(f"{one.error_code}: ") and one.error_code.isupper()
    assert "None" not in told and "\n" not in told


def test_a_breach_of_memory_names_numbers_time_processes_and_remedy() -> None:
    told = sentence(Exit(Cause.MEMORY, breach=BREACH))
    assert told == (
        "OUT_OF_MEMORY: used 257 MiB of 256 MiB allowed (--mem) after 3.4 s; python (pid 7) 250 MiB, "
        "worker (pid 8) 7 MiB. Try --mem 512Mi, or --no-limits to see what it needs"
    )


def test_shared_memory_is_named_where_it_matters() -> None:
    objects = (("/dev/shm/psm_1", 200 * MI), ("hkrunner-fault", 0))
    breach = LimitBreach(260 * MI, 256 * MI, 1.0, objects=objects, objects_count=41, objects_bytes=250 * MI)
    told = sentence(Exit(Cause.SHARED_MEMORY, breach=breach))
    assert "; 250 MiB of it shared memory: /dev/shm/psm_1 200 MiB and 40 more. Try" in told
    assert "hkrunner-fault" not in told
    small = breach._replace(objects=(("/dev/shm/a", MI), ("/dev/shm/b", MI)), objects_count=250)
    assert "shared memory: /dev/shm/a 1 MiB and 249 more. Try" in sentence(
        Exit(Cause.SHARED_MEMORY, breach=small)
    )


@pytest.mark.parametrize("number", [11, 9, 6])
def test_a_signal_is_reported_by_its_name(number: int) -> None:
    assert signal_name(number) in sentence(Exit(Cause.SIGNALLED, signal=number))


def test_a_kill_at_the_limit_on_cpu_time_of_hkrunner_itself_names_that_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2, 3))
    for number, cpu_s, said in ((9, 3.0, "ulimit -t is 3"), (24, 2.0, "ulimit -t is 2"), (9, 2.0, "SIGKILL")):
        told = sentence(Exit(Cause.SIGNALLED, signal=number, cpu_s=cpu_s))
        assert said in told and ("ulimit" in told) == ("ulimit" in said)


def test_a_signal_without_a_name_is_reported_by_its_number() -> None:
    assert signal_name(45) == "signal 45"


def test_a_kill_by_the_machine_is_reported_with_the_own_usage_and_the_limit() -> None:
    told = sentence(Exit(Cause.HOST_OOM, peak_bytes=80 * MI, limit_bytes=256 * MI))
    assert "probably because it had no memory left" in told
    assert "own use 80 MiB of 256 MiB allowed" in told


def test_processes_and_files_that_were_left_are_reported_and_counted() -> None:
    others = tuple(ProcessMemory(pid, "sleep", MI) for pid in range(20, 26))
    lines = left_behind(
        Exit(
            Cause.EXITED,
            others=others,
            others_count=46,
            removed=(("/dev/shm/psm_1", 3 * MI),),
            kept=(("/dev/shm/x", MI),),
            left=(ProcessMemory(9, "stuck", 0),),
        )
    )
    assert lines[0].startswith("46 processes left by the algorithm ended with it: sleep (pid 20), ")
    assert lines[0].endswith(" and 41 more")
    assert lines[1] == "shared memory left by the algorithm was removed: /dev/shm/psm_1 (3 MiB)"
    assert "was kept: /dev/shm/x (1.0 MiB)" in lines[2] or "was kept: /dev/shm/x (1 MiB)" in lines[2]
    assert lines[3] == "these could not be ended, the kernel holds them: 9"


IMPORTING = """Thread 0x1 (most recent call first):
  File "/v/lib/python3.11/site-packages/lib/fast/_core.py", line 9 in make
  File "<string>", line 1 in <module>
  File "/v/lib/python3.11/site-packages/lib/fast/__init__.py", line 4 in <module>
  File "<frozen importlib._bootstrap>", line 241 in _call_with_frames_removed
  File "/usr/lib/python3/dist-packages/other.py", line 2 in <module>"""
DEEP = '  File "/usr/lib/python3.11/json/decoder.py", line 1 in decode\n'
OWN = '  File "/home/me/alg.py", line 5 in start'


@pytest.mark.parametrize(
    ("stack", "place"),
    [
        (OWN, "at alg.py:5 in start"),
        (f"{IMPORTING}\n{OWN}", "at alg.py:5 in start, importing lib.fast"),
        (f"{IMPORTING}\n  ...", "at alg.py:2 in load, importing lib.fast"),
        (f"{IMPORTING}\n  ...\nCurrent thread 0x2 (most recent call first):\n{OWN}", "at alg.py:5 in start"),
        (f"{IMPORTING}\n  ...\nThread 0x2 (most recent call first):\n{DEEP}\n  ...", "importing lib.fast"),
        (f"{DEEP * 40}{IMPORTING.splitlines()[-1]}\n  ...", ""),
        (DEEP, ""),
        ("", ""),
    ],
)
def test_the_place_of_a_stack_is_the_users_line_and_the_module_that_it_imports(
    stack: str, place: str
) -> None:
    """Of a deep import, faulthandler's frames do not reach the user's line, which the child has told before.

    It was told for another import if none is close to the end of the stack.
    """
    assert place_of(Exit(Cause.MEMORY, stack=stack, imports_at="alg.py:2 in load")) == place


def test_a_deep_import_whose_line_is_not_known_is_named_by_its_module() -> None:
    assert place_of(Exit(Cause.MEMORY, stack=f"{IMPORTING}\n  ...")) == "importing lib.fast"


def test_stack_and_last_lines_come_after_the_sentence() -> None:
    told = report(Exit(Cause.EXITED, code=3, stack="Current thread", last_lines=("one", "two")))
    assert told.splitlines()[1:] == ["Current thread", "last output:", "  one", "  two"]
