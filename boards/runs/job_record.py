"""What this machine keeps of a job in a cluster: enough to follow it from any later command.

<state folder>/jobs/<name of the pipeline>.json; written before the job is submitted, so that a job is found
again by its name where the answer was lost or the command was killed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import NotFound
from .files import replace_file, safe_part

_FOLDER = "jobs"


@dataclass
class JobRecord:
    """One job; save() after each change."""

    name: str  #: of its pipeline, which is unique
    cluster: str  #: as --on named it
    algorithm: str
    tasks: int
    nodes: Mapping[str, list[int]]  #: node -> the positions of the inputs that its tasks have
    submitted: int = field(default_factory=lambda: round(time.time() * 1000))  #: ms since 1970
    job: str | None = None  #: HKube's id; None: no answer to the submission yet
    status: str = "submitted"  #: the last one that is known, in HKube's words
    took_s: float | None = None  #: how long the cluster took
    error: str | None = None

    def save(self, state_dir: str | None) -> None:
        """Write the record; None: none is kept."""
        if state_dir is None:
            return
        folder = Path(state_dir, _FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(f"{folder}/{self.name}.json", json.dumps(asdict(self)).encode())

    def remove(self, state_dir: str | None) -> None:
        """Remove the record, and the metrics that were fetched of the job."""
        if state_dir is None:
            return
        Path(state_dir, _FOLDER, f"{self.name}.json").unlink(missing_ok=True)
        if self.job is not None:
            import shutil  # late: it imports every archive format

            for node in Path(state_dir, "runs", safe_part(self.name)).glob("*"):
                shutil.rmtree(node / safe_part(self.job), ignore_errors=True)

    def facts(self) -> dict[str, Any]:
        """Return the fields of `runs ls --json`."""
        return {
            "kind": "job",
            "name": self.name,
            "jobId": self.job,
            "cluster": self.cluster,
            "algorithm": self.algorithm,
            "tasks": self.tasks,
            "status": self.status,
            "startTime": self.submitted,
            "durationMs": None if self.took_s is None else self.took_s * 1000,
            "error": self.error,
        }


def recorded_jobs(state_dir: str) -> list[JobRecord]:
    """Return the jobs of this state folder, the latest last. One that cannot be read is left out."""
    found = [_read(file) for file in Path(state_dir, _FOLDER).glob("*.json")]
    return sorted((one for one in found if one is not None), key=lambda one: one.submitted)


def recorded_job(state_dir: str, name: str) -> JobRecord | None:
    """Return the job with this name or id, None if there is none."""
    return next((one for one in recorded_jobs(state_dir) if name in (one.name, one.job)), None)


def known_job(state_dir: str, name: str) -> JobRecord:
    """Return the job with this name or id. Raises NotFound."""
    found = recorded_job(state_dir, name)
    if found is None:
        raise NotFound(f"there is no job {name} in {state_dir}", hint="hkrunner runs ls shows what there is")
    return found


def no_such_task(root: Path, name: str) -> NotFound:
    """Return the error for a task that is not recorded; the name may be that of a job in a cluster."""
    job = recorded_job(str(root), name)
    if job is None:
        return NotFound(f"there is no task {name} in {root}", hint="hkrunner runs ls shows what there is")
    return NotFound(
        f"{name} is a job on {job.cluster}, where the records of its tasks are",
        hint=f"`hkrunner runs follow {name}` prints its results, `hkrunner compare {name}` its tasks",
    )


def _read(file: Path) -> JobRecord | None:
    try:
        record = JobRecord(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None  # removed meanwhile, or another version's
    return record if _is_whole(record) else None


def _is_whole(record: JobRecord) -> bool:
    """Whether each value has its type: the file may have been edited, or be another version's."""
    texts = (record.name, record.cluster, record.algorithm, record.status)
    numbers = (record.tasks, record.submitted)
    return (
        all(isinstance(one, str) for one in texts)
        and all(isinstance(one, int) for one in numbers)
        and isinstance(record.job, str | None)
        and isinstance(record.error, str | None)
        and isinstance(record.took_s, int | float | None)
        and isinstance(record.nodes, dict)
        and all(
            isinstance(positions, list) and all(isinstance(one, int) for one in positions)
            for positions in record.nodes.values()
        )
    )
