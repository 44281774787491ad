"""hkrunner.Pool: an executor whose tasks fail alone, whatever they do to their worker."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import errno
import inspect
import io
import json
import operator
import os
import re
import resource
import signal
import sys
import threading
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import hkrunner
import numpy
import psutil
import pytest
from hkrunner.runner.python_api import pool_memory
from hkrunner.runner.python_api.keywords import POOL_KEYWORDS, PoolOptions
from hkrunner.runner.python_api.pool_worker import PoolWorker
from support.local import ALGORITHMS
from support.processes import runs
from support.programs import Program, run, run_hkrunner
from support.waiting import wait_until

MISBEHAVES = ALGORITHMS / "pool_misbehaves.py"


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records of tasks are put into the working folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The file in which MISBEHAVES notes each task that has begun."""
    path = tmp_path / "begun"
    path.touch()
    return path


def failure(future: concurrent.futures.Future[Any]) -> hkrunner.TaskResult:
    error = future.exception(timeout=30)
    assert isinstance(error, hkrunner.TaskFailed)
    return error.result


# ---- an executor


def test_a_function_of_a_script_runs_in_workers_as_with_other_executors() -> None:
    factor = 3

    class Number:
        def __init__(self, value: int) -> None:
            self.value = value

    class Slow:
        """Lasts longer than what this process does meanwhile."""

        @property
        def value(self) -> int:
            time.sleep(0.5)
            return 1

    def times(number: Any, *, plus: int = 0) -> Any:
        result = getattr(number, "value", number) * factor
        return result + plus if plus else result

    with hkrunner.Pool(times, workers=2) as pool:
        assert isinstance(pool, concurrent.futures.Executor)
        assert pool.submit(Number(2), plus=1).result(timeout=30) == 7
        assert list(pool.map(range(500))) == [3 * one for one in range(500)]
        assert list(pool.map(range(100), buffersize=3)) == [3 * one for one in range(100)]
        futures = [pool.submit(one) for one in range(20)]
        assert {one.result() for one in pool.as_completed(futures)} == set(range(0, 60, 3))
        assert concurrent.futures.wait(futures).not_done == set()
        assert pool.submit(numpy.ones(3)).result() == [3.0, 3.0, 3.0]
        assert pool.submit(b"ab").result() == b"ababab"
        large = os.urandom(3_000_000)
        assert list(pool.map([large] * 3)) == [large * 3] * 3
        chained: concurrent.futures.Future[Any] = concurrent.futures.Future()
        pool.submit(1).add_done_callback(
            lambda one: pool.submit(one.result()).add_done_callback(
                lambda two: chained.set_result(two.result())
            )
        )
        assert chained.result(timeout=30) == 9
        with pytest.raises(TypeError, match="pickle"):
            pool.submit(threading.Lock()).result()  # the arguments' own error
        pool.submit(1).add_done_callback(lambda one: sys.exit("as the callback of a task"))
        taken = pool.submit(Slow())
        taken.set_result(0)  # by its owner, who gets that one
        assert (taken.result(), pool.submit(2).result()) == (0, 6)
        with pytest.raises(concurrent.futures.TimeoutError):
            next(pool.map([Slow()], timeout=-1))
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(1)


def test_a_pool_without_code_is_an_executor_of_any_functions() -> None:
    async def doubled(value: int) -> int:
        await asyncio.sleep(0)
        return 2 * value

    async def in_a_loop(pool: hkrunner.Pool[..., Any]) -> list[Any]:
        loop = asyncio.get_running_loop()
        return list(
            await asyncio.gather(
                loop.run_in_executor(pool, pow, 2, 10),
                asyncio.wrap_future(pool.submit(doubled, 4)),
            )
        )

    with hkrunner.Pool(workers=1, spare=False) as pool:
        assert asyncio.run(in_a_loop(pool)) == [1024, 8]
        assert list(pool.map(operator.add, [1, 2], [3, 4])) == [4, 6]
        soft, hard = pool.submit(resource.getrlimit, resource.RLIMIT_CORE).result()
        assert (soft in (0, 1), hard) == (True, resource.getrlimit(resource.RLIMIT_CORE)[1])
        assert pool.schedule([sum, [1, 2]], timeout=60).result() == 3
        with pytest.raises(TypeError, match="wants a function"):
            pool.submit(1)
        assert failure(pool.submit(lambda: threading.Lock())).error.code == "RESULT_INVALID"  # type: ignore


def test_large_arguments_arrive_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    def facts(value: Any) -> Any:
        """What is to be equal on both sides; also whether it can be changed."""
        if isinstance(value, dict):
            return [(name, facts(one)) for name, one in value.items()]
        if isinstance(value, list):
            return [facts(one) for one in value]
        if isinstance(value, numpy.ndarray):
            return value.shape, value.flags.writeable, zlib.crc32(numpy.ascontiguousarray(value))
        return type(value).__name__, zlib.crc32(value.encode() if isinstance(value, str) else value)

    values: list[Any] = [
        bytes(range(256)) * 4000,
        bytearray(b"ab") * 200_000,
        "äb" * 200_000,
        {"nested": [b"c" * 300_000, {"deep": b"d" * 9_000_000}], "text": "e" * 70_000},
        numpy.arange(900_000.0).reshape(300, 3000),
        numpy.asfortranarray(numpy.arange(90_000).reshape(300, 300)),
        numpy.arange(300_000)[::2],
        b"f" * 17_000_000,
        [b"g" * 70_000] * 5,
    ]
    with hkrunner.Pool(lambda value: repr(facts(value)), workers=1) as pool:
        futures = [pool.submit(value) for value in values * 2]
        assert [one.result() for one in futures] == [repr(facts(value)) for value in values * 2]

        with monkeypatch.context() as patch:
            patch.setattr(pool_memory, "_new_file", _refuse_memory)
            refused = pool.submit(b"h" * 17_000_000)
            # Submitted while the Pool still looks at the one before.
            after: list[concurrent.futures.Future[Any]] = []
            refused.add_done_callback(lambda _: after.append(pool.submit(b"i")))
            with pytest.raises(OSError, match="Too many open files"):
                refused.result()
        wait_until(lambda: after, what="the next task")
        assert after[0].result(timeout=30) == repr(facts(b"i"))


def _refuse_memory() -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_task_that_cannot_be_sent_does_not_keep_a_pool_from_its_end() -> None:
    class Exits:
        def __reduce__(self) -> Any:
            sys.exit("no")

    with hkrunner.Pool(workers=1) as pool:
        future, exits = pool.submit(str, threading.Lock()), pool.submit(str, Exits())
        with pytest.raises(hkrunner.SettingsError, match="timeout wants a number of seconds above 0"):
            pool.schedule([str, 1], timeout="5")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"wants a function as the first argument of map\(\)"):
            pool.map([1])
    with pytest.raises(TypeError, match="pickle"):
        future.result(timeout=0)
    with pytest.raises(SystemExit, match="no"):
        exits.result(timeout=0)


def test_a_pool_that_cannot_go_on_says_why_to_every_task(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = threading.Event()

    def fail(worker: PoolWorker, tasks: Any) -> Any:
        assert submitted.wait(30)
        raise RuntimeError("as a fault of hkrunner")

    monkeypatch.setattr(PoolWorker, "send", fail)
    pool = hkrunner.Pool(pow, workers=1, spare=False)
    futures = [pool.submit(2, one) for one in range(3)]
    submitted.set()
    assert {str(one.exception(timeout=30)) for one in futures} == {"as a fault of hkrunner"}
    pool.shutdown()
    with pytest.raises(RuntimeError, match="the Pool has ended: RuntimeError: as a fault of hkrunner"):
        pool.submit(2, 2)


def test_a_file_gets_inputs_as_from_the_command_line_and_is_loaded_once(begun: Path) -> None:
    with hkrunner.Pool(MISBEHAVES, workers=1, env={"BEGUN": str(begun)}) as pool:
        (one, pid, loaded), other = pool.map(["a", ["b"]])
        assert (one, other) == ("a", ["b", pid, loaded])
        with pytest.raises(hkrunner.SettingsError, match="cannot be sent"):
            pool.submit(object()).result()
        with pytest.raises(TypeError, match="one argument"):
            pool.schedule([1, 2])


def test_tasks_are_pickled_when_a_worker_has_room_for_them(tmp_path: Path) -> None:
    pickled: list[int] = []
    go_on = tmp_path / "go_on"

    class Counted:
        def __reduce__(self) -> Any:
            pickled.append(1)
            return (int, ())

    def wait(for_file: str, one: Any) -> None:
        while for_file and not os.path.exists(for_file):
            time.sleep(0.01)

    with hkrunner.Pool(wait, workers=1) as pool:
        first = pool.submit(str(go_on), Counted())
        wait_until(first.running, what="the first task")
        futures = [pool.submit("", Counted()) for _ in range(3000)]
        assert len(pickled) == 1
        assert futures[-1].cancel() and not first.cancel()
        go_on.touch()
        concurrent.futures.wait(futures)
    assert len(pickled) >= 3000  # those that were recalled, twice


# ---- tasks that fail


def test_a_task_fails_alone_and_says_why(begun: Path) -> None:
    reasons = {
        "segfault": ("Crashed", "KILLED_BY_SIGNAL"),
        "exit": ("Crashed", "EXITED"),
        "sys.exit": ("Crashed", "EXITED"),
        "raises": ("AlgorithmError", "ALGORITHM_ERROR"),
        "fails in init": ("AlgorithmError", "ALGORITHM_ERROR"),
        "memory": ("MemoryLimit", None),
        "loops": ("Timeout", "TASK_TIMEOUT"),
        "api": ("AlgorithmError", "ALGORITHM_ERROR"),
        "object": ("AlgorithmError", "RESULT_INVALID"),
        "lies": ("Crashed", "CHANNEL_BROKEN"),
        "closes": ("Crashed", "CHANNEL_BROKEN"),
        "closes all": ("Crashed", "CHANNEL_BROKEN"),
    }
    with hkrunner.Pool(MISBEHAVES, workers=2, mem="250Mi", timeout=30, env={"BEGUN": str(begun)}) as pool:
        bad, good = {}, []
        for number, what in enumerate(reasons):
            bad[what] = pool.schedule([what], timeout=1.0 if what == "loops" else None)
            good += [pool.submit(f"good {number} {one}") for one in range(5)]
        for what, (reason, code) in reasons.items():
            result = failure(bad[what])
            assert (what, result.status, result.reason) == (what, "failed", reason), result.message
            assert result.error is not None and code in (None, result.error.code)
            assert result.limit_bytes == 250 << 20
        assert all(one.result(timeout=30)[0].startswith("good") for one in good)
    counts = Counter(begun.read_text().splitlines())
    assert set(counts.values()) == {1}  # nothing was run twice
    assert len(counts) == len(good) + len(reasons) - 1  # init() failed before start()


@pytest.mark.parametrize("mode", ["auto", "brake"])
def test_refused_memory_is_the_reason_whatever_the_task_makes_of_it(mode: str) -> None:
    def fill(how: str) -> None:
        blocks: list[bytearray] = []
        try:
            while how:
                blocks.append(bytearray(1 << 20))
        except MemoryError:
            if how == "library":
                raise RuntimeError("std::bad_alloc") from None
            raise
        ctypes.string_at(0)

    with hkrunner.Pool(fill, workers=1, mem="200Mi", mem_mode=mode, timeout=30) as pool:
        results = [failure(pool.submit(how)) for how in ("python", "library", "")]
    assert [one.reason for one in results] == ["MemoryLimit", "MemoryLimit", "Crashed"], results
    for one in results[:2]:
        assert "limit 200 MiB (--mem), used 1" in one.message and "Try --mem " in one.message, one.message


def test_a_refusal_that_no_task_has_raised_is_told_when_the_worker_ends(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fill(hides: bool) -> None:
        held = []
        try:
            while True:
                held.append(bytearray(b"x" * 100_000))
        except MemoryError:
            if not hides:
                raise

    for hides in (True, False):
        with hkrunner.Pool(fill, workers=1, mem="64Mi", mem_mode="brake", spare=False) as pool:
            error = pool.submit(hides).exception()
        told = capfd.readouterr().err
        assert (error is None) == hides
        is_told = re.search("in the Pool, at .* may have been refused memory. Try --mem ", told) is not None
        assert is_told == hides, told


def test_a_time_limit_holds_whatever_the_worker_writes(begun: Path) -> None:
    reasons = {"is far ahead": "Timeout", "has begun nothing": "Timeout", "was recalled": "Crashed"}
    file = ALGORITHMS / "pool_lies.py"
    with hkrunner.Pool(file, workers=2, timeout=1.0, env={"BEGUN": str(begun)}) as pool:
        bad = {what: pool.submit(what) for what in reasons}
        good = [pool.submit(f"good {one}") for one in range(20)]
        assert {what: failure(one).reason for what, one in bad.items()} == reasons
        assert [one.result(timeout=30) for one in good] == [f"good {one}" for one in range(20)]
    counts = Counter(begun.read_text().splitlines())
    # What a worker denies to have begun is tried again, but not for ever.
    assert counts.pop("has begun nothing") <= 3 and set(counts.values()) == {1}


def test_a_worker_that_ends_between_two_tasks_costs_none(
    begun: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with hkrunner.Pool(MISBEHAVES, workers=1, spare=False, env={"BEGUN": str(begun)}) as pool:
        assert pool.submit("later").result(timeout=30)[0] == "later"
        wait_until(lambda: "with code 5 between two tasks" in capfd.readouterr().err, what="a line")
        assert pool.submit("next").result(timeout=30)[0] == "next"
        # One that hides what it has begun is tried again, but not for ever.
        assert failure(pool.submit("forgets")).reason == "Crashed"
        assert pool.submit("last").result(timeout=30)[0] == "last"


def test_a_spare_takes_the_place_of_a_worker_and_is_replaced(begun: Path) -> None:
    with hkrunner.Pool(MISBEHAVES, workers=1, env={"BEGUN": str(begun)}) as pool:
        me = psutil.Process()
        wait_until(lambda: _workers(me) == 2, what="a worker and a spare")
        crashed, after = pool.submit("segfault"), pool.submit("after")
        done = concurrent.futures.wait([crashed, after], return_when=concurrent.futures.ALL_COMPLETED)
        assert failure(crashed).reason == "Crashed" and after in done.done
        wait_until(lambda: _workers(me) == 2, what="a new spare")


def _workers(process: psutil.Process) -> int:
    """Return how many workers have started: each waits in two threads of its own."""
    count = 0
    for one in process.children(recursive=True):
        try:
            count += "start.py child" in " ".join(one.cmdline()) and one.num_threads() > 1
        except psutil.Error:
            pass
    return count


def test_tasks_behind_a_long_one_go_to_other_workers(begun: Path) -> None:
    def note(name: int, wait_s: float) -> int:
        with open(os.environ["BEGUN"], "a") as file:
            file.write(f"{name}\n")
        time.sleep(wait_s)
        return name

    with hkrunner.Pool(note, workers=2, env={"BEGUN": str(begun)}) as pool:
        list(pool.map(range(300), [0.0] * 300))  # so that short tasks are expected
        begun.write_text("")
        long = pool.submit(-1, 60.0)
        short = [pool.submit(one, 0.0) for one in range(300)]
        assert [one.result(timeout=40) for one in short] == list(range(300))
        wait_until(lambda: "-1\n" in begun.read_text(), what="the begin of the long one")
        assert not long.done()
        pool.terminate()
    assert failure(long).status == "stopped"
    assert Counter(map(int, begun.read_text().split())) == Counter(range(-1, 300))


# ---- the end


def test_cancelling_and_terminating_end_in_order(begun: Path) -> None:
    with hkrunner.Pool(MISBEHAVES, workers=1, env={"BEGUN": str(begun)}) as pool:
        running = pool.submit("waits until it is stopped")
        wait_until(lambda: begun.read_text(), what="the first task")
        pending = [pool.submit(one) for one in range(5)]
        pool.shutdown(wait=False, cancel_futures=True)
        assert concurrent.futures.wait(pending, timeout=10).not_done == set()
        assert all(one.cancelled() for one in pending) and running.running()
        pool.terminate()
        assert running.result() == "stopped"  # stop() has the grace


def test_a_pool_that_nobody_has_any_more_ends_after_its_last_task() -> None:
    future = hkrunner.Pool(pow, workers=1, spare=False).submit(2, 5)
    assert future.result(timeout=30) == 32
    wait_until(lambda: not any(one.name == "hkrunner-pool" for one in threading.enumerate()), what="its end")


def test_settings_and_code_that_cannot_be_used_are_told_with_the_errors_of_run(tmp_path: Path) -> None:
    with pytest.raises(hkrunner.EntryNotFound, match=r"no file nowhere\.py"):
        hkrunner.Pool("nowhere.py")
    with pytest.raises(hkrunner.SettingsError, match=r"--mem lots"):
        hkrunner.Pool(pow, mem="lots")
    with pytest.raises(hkrunner.SettingsError, match="workers"):
        hkrunner.Pool(pow, workers=0)
    with pytest.raises(hkrunner.SettingsError, match="python is for a Pool of a file"):
        hkrunner.Pool(pow, python="python3")
    with pytest.raises(TypeError, match=r"Pool\(\) got an unexpected keyword argument 'disk'"):
        hkrunner.Pool(pow, disk="1Gi")  # type: ignore[call-overload]
    with hkrunner.Pool(ALGORITHMS / "imports_missing_module.py", workers=2) as pool:
        error = pool.submit(1).exception(timeout=30)
        assert isinstance(error, hkrunner.EntryUnusable) and "ModuleNotFoundError" in str(error)
        with pytest.raises(hkrunner.EntryUnusable):
            pool.submit(2)


def test_a_process_that_multiprocessing_spawned_has_a_pool_of_functions_of_its_script(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import dataclasses, multiprocessing, sys\n"
        "import hkrunner\n"
        "sys.path += [None, b'ignored as by imports']\n"
        "@dataclasses.dataclass\n"
        "class Number:\n"
        "    value: int\n"
        "def doubled(number):\n"
        "    return number.value * 2\n"
        "def work():\n"
        "    with hkrunner.Pool(doubled, workers=1) as pool, hkrunner.Pool(workers=1) as any_pool:\n"
        "        print(pool.submit(Number(2)).result(), any_pool.submit(doubled, Number(3)).result())\n"
        "if __name__ == '__main__':\n"
        "    sys.path.remove(None)  # Python's own fork server has no use for it\n"
        "    for how in ('spawn', 'forkserver'):\n"
        "        process = multiprocessing.get_context(how).Process(target=work)\n"
        "        process.start()\n"
        "        process.join()\n"
    )
    assert run([sys.executable, "script.py"], cwd=tmp_path).stdout == "4 6\n4 6\n"


def test_a_script_without_standard_streams_has_a_pool(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import hkrunner, os, pathlib\n"
        "for fd in (0, 1, 2): os.close(fd)\n"
        "with hkrunner.Pool(pow, workers=1, spare=False) as pool: found = [pool.submit(2, 3).result()]\n"
        "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        "try: hkrunner.Pool(pow)\n"
        "except hkrunner.SettingsError as error: found.append(str(error))\n"
        f"pathlib.Path({str(tmp_path / 'found')!r}).write_text(repr(found))\n"
    )
    ended = run([sys.executable, script], cwd=tmp_path)
    assert ended.status == 0, ended.stderr
    assert (
        (tmp_path / "found").read_text().startswith("[8, 'the working folder, in which the tasks would run:")
    )


def test_a_function_needs_cloudpickle_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(hkrunner.SettingsError, match="-m pip install cloudpickle"):
        hkrunner.Pool(pow)


def test_a_forked_process_is_told_to_make_a_pool_of_its_own() -> None:
    with hkrunner.Pool(pow, workers=1, spare=False) as pool:
        assert pool.submit(2, 2).result(timeout=30) == 4
        pid = os.fork()
        if pid == 0:
            try:
                pool.submit(2, 3)
            except RuntimeError as error:
                os._exit(7 if "forked" in str(error) else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert pool.submit(2, 3).result(timeout=30) == 8


def test_the_pool_goes_on_when_its_supervising_process_is_killed(begun: Path) -> None:
    with hkrunner.Pool(MISBEHAVES, workers=1, spare=False, env={"BEGUN": str(begun)}) as pool:
        lost, later = pool.submit("loops"), pool.submit("later task")
        wait_until(lambda: begun.read_text(), what="the first task")
        (supervisor,) = [
            one for one in psutil.Process().children() if "pool_begin" in " ".join(one.cmdline())
        ]
        supervisor.kill()
        assert later.result(timeout=30)[0] == "later task"
        assert failure(lost).error.code == "RUNNER_ERROR"  # type: ignore[union-attr]
        # As many workers as before: the place of one that dies is taken.
        assert failure(pool.submit("segfault")).reason == "Crashed"
        assert pool.submit("last task").result(timeout=30)[0] == "last task"


SCRIPT = """
import hkrunner, os, sys, time
def task(seconds):
    print("at work", flush=True)
    time.sleep(seconds)
    return os.getpid()
pool = hkrunner.Pool(task, workers=1)
future = pool.submit(float(sys.argv[1]))
future.add_done_callback(lambda one: print("done", one.exception() is None, flush=True))
if len(sys.argv) > 2:
    with pool:
        future.result()
"""


def test_an_interpreter_that_exits_runs_the_tasks_and_leaves_no_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with Program([sys.executable, str(script), "0.3"]) as program:
        assert program.wait() == 0
        assert [line.strip() for line in program.stdout] == ["at work", "done True"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_a_script_that_is_interrupted_leaves_no_process(tmp_path: Path, number: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with Program([sys.executable, str(script), "60", "with"]) as program:
        program.wait_for_line("at work", stream="stdout")
        processes = program.family()
        program.send_signal(number)
        assert program.wait() in (-number, 130, -signal.SIGINT)
        wait_until(lambda: not any(map(runs, processes)), what="the end of all processes")


def test_a_time_limit_holds_while_the_process_of_the_pool_is_in_c_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beat(path: str, lies: bool) -> None:
        while True:
            if lies:
                forge_marks()
            with open(path, "a") as file:
                file.write(f"{time.monotonic()}\n")
            time.sleep(0.05)

    def forge_marks() -> None:
        """Say that the task has ended, and that none of the others has a limit."""
        for fd in range(3, 300):
            try:
                if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:hkrunner-fault"):
                    os.pwrite(fd, bytes(3000), 1024 * 1024 + 8)
            except OSError:
                pass

    known: list[bool] = []
    flush = PoolWorker._flush

    def look(worker: PoolWorker) -> None:
        known.append(worker.is_watched and worker._deadlines.due()[0] > 0)
        flush(worker)

    # The C code may begin as soon as a worker has its task.
    monkeypatch.setattr(PoolWorker, "_flush", look)
    paths = [tmp_path / "honest", tmp_path / "lies"]
    with hkrunner.Pool(beat, workers=2) as pool:
        futures = [pool.schedule([str(path), path.name == "lies"], timeout=0.5) for path in paths]
        wait_until(lambda: all(map(Path.exists, paths)), what="the begin of the tasks")
        ctypes.PyDLL(None).sleep(4)  # keeps the lock of the interpreter
        ended = time.monotonic()
        assert [failure(one).reason for one in futures] == ["Timeout", "Timeout"]
    assert known == [True, True], "what ends them knows of them before they begin"
    for path in paths:
        assert float(path.read_text().split()[-1]) < ended - 0.5


# ---- records


def test_tasks_are_recorded_as_those_of_other_runs(begun: Path, tmp_path: Path) -> None:
    def root(number: int) -> float:
        if number == 0:
            os.abort()
        if number < 0:
            time.sleep(60)
        return number**0.5

    with hkrunner.Pool(MISBEHAVES, workers=1, env={"BEGUN": str(begun)}) as pool:
        pool.submit(["a", "b"]).result()
        assert failure(pool.submit("raises")).error.code == "ALGORITHM_ERROR"  # type: ignore[union-attr]
    with hkrunner.Pool(root, workers=1, records=True) as pool:
        assert pool.submit(4).result() == 2.0
        crashed = failure(pool.submit(0))
        pool.submit(-1)
        wait_until(lambda: recorded(tmp_path)[-1]["status"] == "active", what="the record of a running task")
        pool.terminate()
    with hkrunner.Pool(workers=1) as pool:
        pool.submit(len, "no record").result()

    tasks = recorded(tmp_path)
    assert [(one["entry"].rpartition("/")[2], one["status"], one["reason"]) for one in tasks] == [
        ("pool_misbehaves.py", "succeed", None),
        ("pool_misbehaves.py", "failed", "AlgorithmError"),
        ("root", "succeed", None),
        ("root", "failed", "Crashed"),
        ("root", "stopped", "Stopped"),
    ]
    assert (tasks[3]["taskId"], tasks[3]["jobId"]) == (crashed.task_id, crashed.job_id)
    shown = run_hkrunner("runs", "show", crashed.task_id, cwd=tmp_path).stdout
    assert "KILLED_BY_SIGNAL: " in shown
    shown = run_hkrunner("runs", "show", tasks[0]["name"], cwd=tmp_path).stdout
    assert 'input: ["a","b"]' in shown and 'output: ["a",' in shown
    again = run_hkrunner("runs", "again", tasks[2]["name"], cwd=tmp_path)
    assert again.status == 2 and "its input was not recorded" in again.stderr


def recorded(folder: Path) -> list[dict[str, Any]]:
    ended = run_hkrunner("runs", "ls", "--json", cwd=folder)
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_a_disk_that_takes_no_records_costs_no_task(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with hkrunner.Pool(len, workers=1, state_dir=tmp_path / "file" / "folder") as pool:
        assert list(pool.map(["ab", "abc"])) == [2, 3]
    assert capfd.readouterr().err.count("further tasks of the Pool are not recorded: Not a directory") == 1


def test_the_keywords_of_a_pool_are_options_of_the_command() -> None:
    parameters = inspect.signature(hkrunner.Pool.__init__).parameters
    assert set(parameters) - {"self", "code", "workers", "executor", "spare", "records"} == set(POOL_KEYWORDS)
    declared = {name: hint.__forward_arg__ for name, hint in PoolOptions.__annotations__.items()}
    assert declared == {name: option.python for name, option in POOL_KEYWORDS.items()}


class Unwritable(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))


def test_a_stderr_that_cannot_be_written_ends_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a worker between two tasks is told there."""
    with hkrunner.Pool(workers=1) as pool:
        pid = pool.submit(os.getpid).result(timeout=30)
        monkeypatch.setattr(sys, "stderr", Unwritable())
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(pid), what="the worker is gone")
        later = [pool.submit(os.getpid) for _ in range(3)]
        assert later[-1].result(timeout=30) != pid
