"""The records of jobs in clusters: what was edited, or cut off, is left out and no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hkrunner.boards.errors import NotFound
from hkrunner.boards.runs.history import show_task
from hkrunner.boards.runs.job_record import JobRecord, recorded_job, recorded_jobs
from hkrunner.boards.runs.task_output import TaskOutput
from hkrunner.boards.targets import task_target


def test_a_record_is_read_as_it_was_written_and_one_with_other_types_is_left_out(tmp_path: Path) -> None:
    record = JobRecord("sq-1", "lab", "sq", 2, {"sq": [0, 1]}, job="job1", took_s=1, status="completed")
    record.save(str(tmp_path))
    assert recorded_jobs(str(tmp_path)) == [record]
    assert recorded_job(str(tmp_path), "job1") == record == recorded_job(str(tmp_path), "sq-1")
    file = tmp_path / "jobs" / "sq-1.json"
    whole: dict[str, Any] = json.loads(file.read_text())
    junk = ({"x": None}, [[None]], 1.5)
    broken = [{**whole, name: value} for name in whole for value in junk if (name, value) != ("took_s", 1.5)]
    texts = [json.dumps(one) for one in broken]
    for text in (*texts, "", "null", "[]", json.dumps(whole)[:-5], "[" * 100_000):
        file.write_text(text)
        assert recorded_jobs(str(tmp_path)) == [], text


def test_the_metrics_that_were_fetched_of_a_job_are_removed_with_its_record(tmp_path: Path) -> None:
    record = JobRecord("sq-1", "lab", "sq", 1, {"sq": [0]}, job="job1")
    record.save(str(tmp_path))
    for job in ("job1", "other"):
        (tmp_path / "runs" / "sq-1" / "sq" / job / "task1").mkdir(parents=True)
    record.remove(str(tmp_path))
    assert recorded_jobs(str(tmp_path)) == []
    assert [one.name for one in (tmp_path / "runs" / "sq-1" / "sq").iterdir()] == ["other"]


def test_a_job_whose_name_is_given_for_a_task_is_said_to_be_one(tmp_path: Path) -> None:
    JobRecord("sq-1", "lab", "sq", 1, {"sq": [0]}, job="job1").save(str(tmp_path))

    def printed(root: Path, name: str) -> object:
        return TaskOutput(root, name).read("stdout")

    reads: list[Callable[[Path, str], object]] = [show_task, task_target, printed]
    for read in reads:
        with pytest.raises(
            NotFound, match="job1 is a job on lab, where the records of its tasks are"
        ) as caught:
            read(tmp_path, "job1")
        assert "hkrunner runs follow job1" in (caught.value.hint or "")
        with pytest.raises(NotFound, match="there is no task job2 in "):
            read(tmp_path, "job2")
