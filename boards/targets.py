"""Which folder a board shows, and the id that HKube gives it.

    task    <task>               runs/P/N/J/T
    batch   <job>:<node>         runs/P/N/J       the tasks of one job's node
    node    <pipeline>:<node>    runs/P/N         all runs of a node
    all     all                  runs
    pick    pick:<hash>          a tree of links to hand-picked tasks, made when the board starts

Every board shows one folder: TensorBoard's option for several (--logdir_spec) splits at commas and colons,
which HKube's names contain, and turns the fast loader off.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import NotFound
from .runs.files import original_text, safe_part
from .runs.history import metrics_folder, read_facts
from .runs.job_record import no_such_task
from .runs.journal_reader import read_journals


@dataclass(frozen=True)
class Target:
    """What a board shows. Names that do not apply are None."""

    id: str
    type: str
    log_dir: Path
    task: str | None = None
    job: str | None = None
    node: str | None = None
    pipeline: str | None = None
    #: For a pick: each link's name below log_dir, and the run folder that it leads to.
    links: tuple[tuple[str, Path], ...] = ()


@dataclass(frozen=True)
class JobNode:
    """One node of a job that has run here."""

    pipeline: str
    node: str
    folder: Path


def nodes_of_job(root: Path, job: str) -> list[JobNode]:
    """Return the nodes of a job that have run folders; none for a job that is not known here."""
    name = safe_part(job)
    found = {
        node / name
        for pipeline in _folders(root / "runs")
        for node in _folders(pipeline)
        if os.path.isdir(node / name)
    }
    tasks = read_journals(str(root)).values()
    found |= {(root / str(one.facts["metricsDir"])).parent for one in tasks if one.facts.get("jobId") == job}
    return [
        JobNode(original_text(folder.parent.parent.name), original_text(folder.parent.name), folder)
        for folder in sorted(found)
    ]


def task_target(root: Path, task: str, *, job: str | None = None) -> Target:
    """Return the board of one task. Raises NotFound, in HKube's words if the job was given."""
    if job is None:
        facts = read_facts(root, task)
        if facts is None:
            raise no_such_task(root, task)
        if not isinstance(facts.get("metricsDir"), str):
            raise NotFound(
                f"task {task} has no metrics folder: it ran under another wrapper",
                hint="for a board, let hkrunner run the code itself",
            )
        folder = metrics_folder(root, facts)
        if folder is None:  # a board follows it, wherever it leads
            raise NotFound(f"the record of task {task} names a metrics folder outside {root}/runs")
        names = (facts.get("jobId"), facts.get("nodeName"), facts.get("pipelineName"))
        job, node, pipeline = (name if isinstance(name, str) else "" for name in names)
        return Target(task, "task", folder, task=task, job=job, node=node, pipeline=pipeline)
    nodes = nodes_of_job(root, job)
    if not nodes:
        raise NotFound(f"pipeline {job} Not Found")
    for found in nodes:
        folder = found.folder / safe_part(task)
        if os.path.isdir(folder) or _is_in_journal(root, folder):
            return Target(task, "task", folder, task=task, job=job, node=found.node, pipeline=found.pipeline)
    # HKube core/api-server lib/service/boards.js prints an undefined here; clients may match the text.
    raise NotFound(f"No task {task} in job {job} undefined Not Found")


def _is_in_journal(root: Path, run: Path) -> bool:
    place = str(run.relative_to(root))
    return any(task.facts["metricsDir"] == place for task in read_journals(str(root)).values())


def batch_target(root: Path, job: str, node: str) -> Target:
    """Return the board of all tasks of a job's node. Raises NotFound in HKube's words."""
    nodes = nodes_of_job(root, job)
    if not nodes:
        raise NotFound(f"pipeline {job} Not Found")
    for found in nodes:
        if found.node == node:
            return Target(f"{job}:{node}", "batch", found.folder, job=job, node=node, pipeline=found.pipeline)
    raise NotFound(f"node {node} for job {job} Not Found")


def node_target(root: Path, pipeline: str, node: str) -> Target:
    """Return the board of a node over all its runs; as in HKube there may be none yet."""
    folder = root / "runs" / safe_part(pipeline) / safe_part(node)
    return Target(f"{pipeline}:{node}", "node", folder, node=node, pipeline=pipeline)


def all_target(root: Path) -> Target:
    """Return the board of all recorded tasks."""
    return Target("all", "all", root / "runs")


def pick_target(root: Path, tasks: Sequence[str]) -> Target:
    """Return the board of these tasks, which may be of different jobs. Raises NotFound."""
    return pick_of_runs(root, [task_target(root, task).log_dir for task in tasks])


def pick_of_runs(root: Path, folders: Iterable[Path]) -> Target:
    """Return the board of these run folders, which are below runs/."""
    runs = sorted(set(folders))
    mark = hashlib.sha256("\n".join(map(str, runs)).encode()).hexdigest()[:12]
    folder = root / "boards" / f"pick-{mark}"
    return Target(f"pick:{mark}", "pick", folder, links=tuple(_shortest_names(root / "runs", runs)))


def find_target(root: Path, word: str) -> Target:
    """Return the board that one word means: a task, or a job that ran one node here. Raises NotFound."""
    if word == "all":
        return all_target(root)
    try:
        return task_target(root, word)
    except NotFound:
        nodes = nodes_of_job(root, word)
        if not nodes and read_facts(root, word) is not None:
            raise
    if len(nodes) == 1:
        return batch_target(root, word, nodes[0].node)
    if nodes:
        names = ", ".join(found.node for found in nodes)
        raise NotFound(f"job {word} ran more than one node: {names}", hint="choose one with --node")
    hint = "hkrunner runs ls shows what there is"
    if os.path.isdir(root / "runs" / "local" / safe_part(word)):
        hint = f"for all runs of that algorithm: --node {word}"
    raise NotFound(f"there is neither a task nor a job {word} in {root}", hint=hint)


#: How many folders below a board's folder a task's run folder is.
_TASK_DEPTH = {"task": 0, "batch": 1, "node": 2, "all": 4}


def task_depth(type: str, log_dir: Path) -> int:
    """Return how many folders below the board's folder a task's run folder is."""
    depth = _TASK_DEPTH.get(type)
    if depth is not None:
        return depth
    # A pick: all its links have the same depth.
    depth, folders = 0, [log_dir]
    while folders and not folders[0].is_symlink():
        folders = _folders(folders[0])
        depth += 1
    return depth


def _shortest_names(runs: Path, folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the shortest distinct name of each run folder: task, or job/task, or node/job/task, ..."""
    for depth in range(1, 5):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    else:
        names = [str(folder.relative_to(runs)) for folder in folders]
    yield from zip(names, folders, strict=True)


def _folders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return sorted(path / entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
