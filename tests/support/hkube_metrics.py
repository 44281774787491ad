"""The HKube api-server of hkube_api.py with what it knows of algorithms, metrics of tasks, and boards."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

from hkrunner.boards.runs.event_files import EventWriter

from .hkube_api import FakeJob, HkubeApi

#: The folder that HKube's worker makes for a task: the time as Node writes it in English.
DATE = "11-29-2026, 5:58:40 PM"


class HkubeWithMetrics(HkubeApi):
    """Each task that succeeds has an event file. The algorithm has two versions; jobs run the old one.

    A board goes through `board_states`, one for each time that it is asked for, and stays in the last one.
    """

    boards: dict[str, list[dict[str, Any]]]

    routes: ClassVar[dict[str, str]] = {
        **HkubeApi.routes,
        "/storage/keys/{path}": "keys",
        "/store/algorithms/{name}": "stored_algorithm",
        "/versions/algorithms/{name}": "versions",
        "/boards/tensors": "start_board",
        "/boards/tensors/{id}": "board",
    }
    algorithms: ClassVar[dict[str, dict[str, Any]]] = {
        "old": {"name": "sq", "version": "old", "mem": "64Mi", "cpu": 0.5},
        "new": {"name": "sq", "version": "new", "mem": "1Gi", "cpu": 1},
    }

    board_states: ClassVar[list[dict[str, Any]]] = [{"status": "pending"}, {"status": "running"}]

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.boards = {}

    def add_metrics(self, folder: Path) -> None:
        """Store an event file for each task of each job that has none yet."""
        for job in self.jobs.values():
            for task in job.tasks:
                path = f"{self._metrics_of(job, task)}/events.out.tfevents.1"
                if task["status"] == "succeed" and path not in self.stored:
                    self.stored[path] = _event_file(folder / job.id / task["taskId"])

    def _metrics_of(self, job: FakeJob, task: dict[str, Any]) -> str:
        place = f"{job.pipeline['name']}/{task['nodeName']}/{job.id}/{task['taskId']}"
        return f"local-hkube-algo-metrics/{place}/{DATE}"

    def graph(self, value: Any, job_id: str) -> tuple[int, Any]:
        status, answer = super().graph(value, job_id)
        by_id = {task["taskId"]: task for task in self.jobs[job_id].tasks}
        for node in answer["nodes"]:
            node["algorithmVersion"] = "old"
            for one in node.get("batch", [node]):
                if one["status"] == "succeed":
                    path = self._metrics_of(self.jobs[job_id], by_id[one["taskId"]])
                    one["metricsPath"] = {"tensorboard": {"path": path}}
        return status, answer

    def keys(self, _: Any, path: str) -> tuple[int, Any]:
        found = [
            {"path": f"/{name}", "size": len(data), "mtime": "2026-11-29T17:58:40.000Z"}
            for name, data in self.stored.items()
            if name.startswith(f"{unquote(path)}/")
        ]
        if not found:
            return 404, {"error": {"code": 404, "message": f"key {path} Not Found"}}
        return 200, {"path": unquote(path), "total": len(found), "keys": found}

    def stream(self, value: Any, path: str) -> bytes | tuple[int, Any]:
        return super().stream(value, unquote(path))

    def start_board(self, value: Any, _: str) -> tuple[int, Any]:
        job, node = self.jobs[value["jobId"]], value["nodeName"]
        if node not in [one["nodeName"] for one in job.tasks]:
            return 404, {"error": {"code": 404, "message": f"node {node} for job {job.id} Not Found"}}
        board = f"{job.id}:{node}"
        if board in self.boards:
            details = f"board {{}} \n already started and is in {self.boards[board][0]['status']} status"
            return 400, {"error": {"code": 400, "message": "board: already started", "details": details}}
        reference = f"ref{len(self.boards)}"
        record = {"id": board, "boardReference": reference, "boardLink": f"hkube/board/{reference}/"}
        record |= {"logDir": "local-hkube-algo-metrics", "type": "batch", "jobId": job.id}
        record |= {"nodeName": node, "pipelineName": job.pipeline["name"], "result": None, "error": None}
        self.boards[board] = [{**record, **state} for state in self.board_states]
        return 200, {"id": board, "message": "Board started successfully"}

    def board(self, _: Any, board: str) -> tuple[int, Any]:
        states = self.boards[unquote(board)]
        return 200, states.pop(0) if len(states) > 1 else states[0]

    def stored_algorithm(self, _: Any, name: str) -> tuple[int, Any]:
        if name != self.name:
            return 404, {"error": {"code": 404, "message": f"algorithm {name} Not Found"}}
        return 200, self.algorithms["new"]

    def versions(self, _: Any, name: str) -> tuple[int, Any]:
        return 200, [{"version": key, "name": name, "algorithm": one} for key, one in self.algorithms.items()]


def _event_file(folder: Path) -> bytes:
    writer = EventWriter(folder)
    for step in range(3):
        writer.add({"loss": 1.0 / (step + 1)}, step=step, at_s=1_700_000_000.0 + step)
    writer.close()
    (file,) = folder.iterdir()
    return file.read_bytes()
