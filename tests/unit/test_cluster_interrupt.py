"""Ctrl-C in a run in a cluster: the request that stops the job is not the one that Ctrl-C ends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hkrunner.boards.runs.job_record import JobRecord
from hkrunner.runner.app.cluster_run import ClusterRun
from hkrunner.runner.app.run import make_output
from hkrunner.runner.cluster.pipeline import batch_pipeline
from hkrunner.runner.cluster.transport import Body
from hkrunner.runner.io.loop import Loop
from hkrunner.runner.settings.from_options import settings_of
from hkrunner.runner.settings.options import OPTIONS
from support.hkube_api import HkubeApi
from support.waiting import wait_until


@contextlib.contextmanager
def cluster_run(cluster: HkubeApi, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Iterator[ClusterRun]:
    """A run of one task, which begins when the block ends; it is carried out there."""
    monkeypatch.delenv("HKRUNNER_CLUSTER", raising=False)
    own = {"on": cluster.url, "algorithm": ("sq",), "input": ("3",), "no_state": True, "quiet": True, **more}
    settings = settings_of({**{one.name: one.default for one in OPTIONS}, **own}, {}, finds_descriptor=False)
    pipeline = batch_pipeline("sq", [b"[3]"])
    record = JobRecord(pipeline.name, cluster.url, "sq", 1, pipeline.nodes)
    loop = Loop()
    output = make_output(loop, settings, None)
    run = ClusterRun(loop, settings, output, record, pipeline.body)
    try:
        yield run
        run.begin()
        try:
            loop.run()
        finally:
            run.close()
    finally:
        output.close()
        loop.close()


def test_a_slow_interrupt_does_not_end_the_request_that_stops_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that waits for the job wakes up before the loop has ended the thread's last request."""
    with HkubeApi(lambda row: row, active_polls=1_000_000).running() as cluster:
        is_stopping, is_aborted = threading.Event(), threading.Event()
        with cluster_run(cluster, monkeypatch) as run:
            abort, stop = run._api.abort, run._job.stop

            def late_abort() -> None:
                is_stopping.wait(0.5)  # where the thread is not held up, it is there at once
                abort()
                is_aborted.set()

            def stop_after_the_abort() -> bool:
                is_stopping.set()
                is_aborted.wait(10)
                return stop()

            monkeypatch.setattr(run._api, "abort", late_abort)
            monkeypatch.setattr(run._job, "stop", stop_after_the_abort)

            def interrupt() -> None:
                wait_until(lambda: any("exec/status" in one for one in cluster.requests), what="the job runs")
                run._loop.post_from_thread(lambda: run.interrupt(130))

            thread = threading.Thread(target=interrupt)
            thread.start()
        thread.join()
        (job,) = cluster.jobs.values()
        assert (job.status, run.report.status) == ("stopped", 130)


@pytest.mark.parametrize("detach", [False, True])
def test_an_interrupt_during_the_submission_stops_the_job_that_was_submitted(
    detach: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The request is not cut off. With --detach the job was left, though "stopping" was printed."""
    with HkubeApi(lambda row: row, active_polls=1_000_000).running() as cluster:
        with cluster_run(cluster, monkeypatch, detach=detach) as run:
            submit = run._job.submit

            def interrupted(body: Body) -> None:
                submit(body)
                run._loop.post_from_thread(lambda: run.interrupt(130))
                assert run._interrupted.wait(60)

            monkeypatch.setattr(run._job, "submit", interrupted)
        (job,) = cluster.jobs.values()
        assert (job.status, run.report.status) == ("stopped", 130)
        told = capfd.readouterr()
        assert told.out == "" and told.err.endswith(f" job {job.id} stopped\n")
