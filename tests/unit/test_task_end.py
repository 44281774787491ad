"""How a task ends, with children that say what the test says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hkrunner.boards.runs.journal import Journal
from hkrunner.boards.runs.store import Store
from hkrunner.runner.protocol.task_state import State
from hkrunner.runner.serving.task_end import ENDED_WAIT_S
from hkrunner.sandbox.shared.limits import MI, Limits
from hkrunner.sandbox.shared.message_format import Memfd
from hkrunner.sandbox.shared.messages import Begin, Done, HeldBack, LoadFailed, Problem, Progress
from hkrunner.sandbox.shared.outcome import Cause
from support.fake_serving import Serve, blob_of, is_open

# ---- the end of a task


def test_a_large_answer_is_read_out_of_the_childs_memory(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    answer = blob_of(b'{"command":"done","data":[1]}')
    one.child.says(Done(answer), 1)
    assert one.link.posted[-1] == {"command": "done", "data": [1]}
    assert not is_open(answer.fd)


def test_memory_that_the_child_could_shorten_is_no_answer(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    one.child.says(Done(Memfd(fd, 10)), 1)
    assert one.commands[-1] == "errorMessage"
    assert "not sealed" in one.link.posted[-1]["error"]["message"]
    assert not is_open(fd)


def test_a_task_that_lasted_is_answered_when_its_final_usage_is_there(serve: Serve) -> None:
    one = serve()
    one.run_to(State.ANSWERED)
    assert one.commands == ["initialized", "started"]
    one.child.samples(memory=10_000)
    assert one.state is State.ANSWERED
    one.child.samples(answers=one.child.asked[-1], memory=20_000)
    assert one.commands[-1] == "done" and one.results[0].peak_bytes == 20_000


def test_a_task_of_a_local_stream_that_is_stopped_in_order_has_succeeded(serve: Serve) -> None:
    for force, local, failed, status in (
        (False, True, False, "succeed"),
        (False, True, True, "failed"),
        (True, True, False, "stopped"),
        (False, False, False, "stopped"),  # HKube's word for it
    ):
        one = serve(stream_port=0 if local else None)
        one.run_to(State.RUNNING)
        assert one.supervisor._control.task is not None
        one.supervisor._control.task.has_stream = True
        one.stop(force=force)
        if failed:
            one.child_fails()
        else:
            answer = blob_of(b'{"command":"done","data":[1]}')
            one.child.says(Done(answer), 1)
            assert not is_open(answer.fd)
        (result,) = one.results
        assert (result.status, result.failure is not None) == (status, failed)
        assert one.commands[-1] == "stopped"  # as HKube's worker wants it


def test_a_final_usage_that_does_not_come_is_not_waited_for(serve: Serve) -> None:
    one = serve()
    one.run_to(State.ANSWERED)
    one.after(0.3)
    assert one.commands[-1] == "done" and one.state is State.IDLE
    one.child.samples(answers=one.child.asked[-1])
    one.after(1.0)
    assert one.commands.count("done") == 1


@pytest.mark.parametrize("lasts", [False, True])
def test_what_a_task_leaves_is_ended_before_its_answer(lasts: bool, serve: Serve) -> None:
    one = serve(end_children=True)
    one.child.helpers, one.child.still_running = [], ("thread loader", "process sleep (pid 7)")
    if lasts:
        one.run_to(State.ANSWERED)
    else:
        one.run_to(State.RUNNING)
        one.child_answers()
    assert one.child.ended_others == 1 and one.child.still_running == ("thread loader",)
    first, second = one.child.asked[-2:]
    one.child.samples(answers=first)
    assert one.state is State.ANSWERED, "the answer to the second question says that they are ended"
    one.child.samples(answers=second)
    assert one.commands[-1] == "done" and one.state is State.IDLE


def test_what_a_brief_task_uses_is_not_taken_for_the_peak_of_an_earlier_one(serve: Serve) -> None:
    one = serve(end_children=True)
    one.child.helpers, one.child.still_running = [], ("process sleep (pid 7)",)
    one.run_to(State.RUNNING)
    one.child_answers()
    one.child.samples(answers=one.child.asked[-1], memory=10_000, peak=300_000_000)
    assert one.commands[-1] == "done" and one.results[0].peak_bytes == 10_000


def test_processes_that_may_run_unnamed_since_others_were_ended_are_ended_too(serve: Serve) -> None:
    one = serve(end_children=True)
    one.child.helpers, one.child.may_run_more = [], True
    one.run_to(State.RUNNING)
    one.child_answers()
    assert one.child.ended_others == 1


def test_what_a_task_leaves_that_is_stopped_before_its_start_is_ended_before_the_answer(serve: Serve) -> None:
    one = serve(end_children=True)
    one.child.helpers, one.child.still_running = [], ("process sleep (pid 7)",)
    one.run_to(State.INITIALIZED)
    one.stop()
    assert one.child.ended_others == 1 and one.commands[-1] != "stopped"
    one.child.samples(answers=one.child.asked[-1])
    assert one.commands[-1] == "stopped" and one.state is State.IDLE


def test_a_brief_task_that_leaves_nothing_is_answered_at_once(serve: Serve) -> None:
    one = serve(end_children=True)
    one.child.helpers = []
    one.run_to(State.RUNNING)
    one.child_answers()
    assert one.commands[-1] == "done" and one.child.ended_others == 0 and one.child.asked == []


def test_the_end_of_what_a_task_left_is_not_waited_for_without_end(serve: Serve) -> None:
    one = serve(end_children=True)
    one.run_to(State.RUNNING)
    one.child_answers()
    assert one.child.ended_others == 1, "a program in another language does not tell what it leaves"
    one.after(ENDED_WAIT_S - 0.1)
    assert one.state is State.ANSWERED
    one.after(0.2)
    assert one.commands[-1] == "done" and one.state is State.IDLE


def test_the_first_of_two_answers_counts(serve: Serve) -> None:
    one = serve()
    one.run_to(State.ANSWERED)
    second = blob_of(b'{"command":"done","data":2}')
    one.child.says(Done(second), 1)
    one.child_fails()
    one.after(0.3)
    assert one.link.posted[-1] == {"command": "done", "data": 1} and one.commands.count("done") == 1
    assert not is_open(second.fd)


def test_a_failure_is_answered_and_the_child_serves_on(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    one.child_fails()
    assert one.link.posted[-1]["error"]["code"] == "ALGORITHM_ERROR"
    one.initialize("t2")
    assert len(one.children) == 1 and one.child.sent[-1][0] == 2


def test_a_child_that_exits_in_its_task_is_answered_at_once_and_the_next_task_has_a_new_one(
    serve: Serve,
) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    one.child_fails(ends=True)
    assert one.commands[-1] == "errorMessage"
    one.initialize("t2")
    assert len(one.children) == 2
    one.children[0].goes()
    assert one.state is State.INITIALIZING and one.children[0].kill_cause is None


def test_what_was_printed_before_sys_exit_is_in_the_record_of_the_task(serve: Serve, tmp_path: Path) -> None:
    one = serve(store=Store(tmp_path), state_dir=str(tmp_path))
    one.run_to(State.RUNNING)
    one.child.unread = b"last words"
    one.child_fails(ends=True)
    assert (tmp_path / "tasks/t1/stdout.log").read_bytes() == b"last words"
    one.supervisor.shutdown(0)
    one.turn()
    one.child.goes()


@pytest.mark.parametrize("is_killed", [False, True])
def test_the_next_child_is_started_once_one_has_gone_that_exited_in_its_task(
    is_killed: bool, serve: Serve
) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    one.child_fails(ends=True)
    if is_killed:
        one.after(5.1)
    assert len(one.children) == 1, "no two processes at a time hold a model, and a warden is free in a moment"
    one.children[0].goes()
    assert len(one.children) == 2


def test_a_child_whose_code_cannot_be_loaded_is_replaced_for_the_next_task_only(serve: Serve) -> None:
    one = serve(methods=None)
    one.initialize()
    one.child.says(LoadFailed("IMPORT_FAILED", "no"))
    one.children[0].goes()
    assert one.commands == ["errorMessage"] and len(one.children) == 1


def test_a_child_that_says_it_ends_and_does_not_is_killed_after_the_grace(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    one.child_fails(ends=True)
    one.after(5.1)
    assert one.child.kill_cause is Cause.STOPPED


def test_a_problem_is_kept_with_the_task_and_shown_where_there_is_none(serve: Serve) -> None:
    one = serve()
    one.child.says(Problem("no disk"))
    assert one.output.shows("✘ no disk")
    one.run_to(State.RUNNING)
    one.child.says(Problem("output.json was not kept"), 1)
    one.child_answers()
    assert one.results[0].problems == ["output.json was not kept"]


def test_memory_refused_while_the_code_was_loaded_is_told_with_the_first_task_only(serve: Serve) -> None:
    one = serve(limits=Limits(memory_bytes=64 * MI))
    held = HeldBack(7, "python3", 0, 62 * MI, 1.0, at=1.0, is_over=True)  # long before the task
    for _ in range(2):
        one.run_to(State.ANSWERED)
        for answers in one.child.asked:
            one.child.samples(answers=answers, held_back=held)
        one.child.asked.clear()
    first, second = one.results
    told = (
        "while the code was loaded, at 62 MiB of 64 MiB (--mem), python3 (pid 7) may have been refused memory"
    )
    assert first.problems == [f"{told}. Try --mem 128Mi"] and second.problems == []


def test_the_memory_of_a_childs_tasks_is_never_compared_with_that_of_the_child_before(serve: Serve) -> None:
    one = serve(limits=Limits(memory_bytes=100 * MI))

    def run(memory: int) -> None:
        one.run_to(State.ANSWERED)
        one.child.samples(answers=one.child.asked[-1], memory=memory * MI)

    for _ in range(7):
        run(10)
    one.child.goes()
    one.child.loads("init", "start")
    one.initialize()
    one.child_fails()  # before it is measured
    for memory in (50, 50, *[90] * 7):
        run(memory)
    assert len(one.results) == 17 and one.results[7].status == "failed"
    assert not one.output.shows("memory grew"), "one step is no leak"


def test_progress_reaches_the_worker_while_the_task_runs_only(serve: Serve) -> None:
    one = serve()
    one.run_to(State.RUNNING)
    one.child.says(Progress(50.0, "half"), 1)
    assert one.link.posted[-1] == {"command": "progress", "data": {"progress": 50.0, "details": "half"}}
    one.stop()
    one.child.says(Progress(60.0), 1)
    assert one.commands.count("progress") == 1


# ---- what is kept


def test_a_task_whose_process_ends_has_its_folder_before_the_end_is_reported(
    serve: Serve, tmp_path: Path
) -> None:
    store = Store(tmp_path, journal=lambda layout: Journal(layout, "json"))
    one = serve(methods=("start",), store=store, state_dir=str(tmp_path))
    one.run_to(State.RUNNING)
    tasks = tmp_path / "tasks"
    assert not list(tasks.iterdir())
    one.child.closes()
    (folder,) = tasks.iterdir()
    one.child.goes()
    assert '"failed"' in (folder / "task.json").read_text() and list(tasks.iterdir()) == [folder]
    one.supervisor.shutdown(0)
    one.child.goes()


def test_all_about_a_task_is_on_disk_when_its_answer_leaves(serve: Serve, tmp_path: Any) -> None:
    one = serve(methods=("start",), store=Store(tmp_path), state_dir=str(tmp_path))
    one.initialize()
    begin = one.child.sent[0][1]
    assert isinstance(begin, Begin) and begin.folder == str(tmp_path / "tasks" / "t1")
    one.start()
    there: list[bool] = []
    post = one.link.post

    def look(*args: Any, **more: Any) -> bool:
        there.append('"succeed"' in (tmp_path / "tasks/t1/task.json").read_text())
        return post(*args, **more)

    one.link.post = look  # type: ignore[method-assign]
    one.child_answers()
    assert there == [True]
    one.supervisor.shutdown(0)
    one.child.goes()
