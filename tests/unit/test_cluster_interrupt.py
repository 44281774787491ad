"""Ctrl-C in a run in a cluster: the request that stops the job is not the one that Ctrl-C ends."""

from __future__ import annotations

import threading

import pytest
from hkrunner.boards.runs.job_record import JobRecord
from hkrunner.runner.app.cluster_run import ClusterRun
from hkrunner.runner.app.run import make_output
from hkrunner.runner.cluster.pipeline import batch_pipeline
from hkrunner.runner.io.loop import Loop
from hkrunner.runner.settings.from_options import settings_of
from hkrunner.runner.settings.options import OPTIONS
from support.hkube_api import HkubeApi
from support.waiting import wait_until


def test_a_slow_interrupt_does_not_end_the_request_that_stops_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that waits for the job wakes up before the loop has ended the thread's last request."""
    monkeypatch.delenv("HKRUNNER_CLUSTER", raising=False)
    with HkubeApi(lambda row: row, active_polls=1_000_000).running() as cluster:
        own = {"on": cluster.url, "algorithm": ("sq",), "input": ("3",), "no_state": True, "quiet": True}
        settings = settings_of(
            {**{one.name: one.default for one in OPTIONS}, **own}, {}, finds_descriptor=False
        )
        pipeline = batch_pipeline("sq", [b"[3]"])
        record = JobRecord(pipeline.name, cluster.url, "sq", 1, pipeline.nodes)
        loop = Loop()
        output = make_output(loop, settings, None)
        run = ClusterRun(loop, settings, output, record, pipeline.body)
        abort, stop = run._api.abort, run._job.stop
        is_stopping, is_aborted = threading.Event(), threading.Event()

        def late_abort() -> None:
            is_stopping.wait(0.5)  # where the thread is not held up, it is there at once
            abort()
            is_aborted.set()

        def stop_after_the_abort(reason: str) -> bool:
            is_stopping.set()
            is_aborted.wait(10)
            return stop(reason)

        monkeypatch.setattr(run._api, "abort", late_abort)
        monkeypatch.setattr(run._job, "stop", stop_after_the_abort)

        def interrupt() -> None:
            wait_until(lambda: any("exec/status" in one for one in cluster.requests), what="the job runs")
            loop.post_from_thread(lambda: run.interrupt(130))

        thread = threading.Thread(target=interrupt)
        thread.start()
        run.begin()
        try:
            loop.run()
        finally:
            run.close()
            thread.join()
            output.close()
            loop.close()
        (job,) = cluster.jobs.values()
        assert (job.status, run.report.status) == ("stopped", 130)
