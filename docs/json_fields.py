"""The meaning of the fields of --json and of the events of --output jsonl, as the reference shows them.

generated.py checks that the code has the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """A field of a JSON object: its type as JSON Schema names it, its unit, its meaning, when it is null."""

    kind: str
    unit: str
    meaning: str
    null: str = ""


RESULT: Mapping[str, Field] = {
    "taskId": Field("string", "", "The task: `t1`, `t2`, … in a local run, otherwise HKube's id."),
    "jobId": Field(
        "string",
        "",
        "The job. The tasks of one local run share a job, named after its time; with `--on` it has HKube's"
        " id.",
    ),
    "nodeName": Field("string", "", "The node of the pipeline; in a local run the algorithm's name."),
    "pipelineName": Field("string", "", "The pipeline; `local` in a local run."),
    "status": Field("string", "", "`succeed`, `failed` or `stopped`, as HKube names them."),
    "reason": Field(
        "string",
        "",
        "Why there is no result: `AlgorithmError`, `MemoryLimit`, `CpuLimit`, `Timeout`, `LoadError`,"
        " `Crashed` or `Stopped`. The list of [error codes](errors.md) has the reason of each code.",
        "the task succeeded",
    ),
    "error": Field(
        "object",
        "",
        "`code` (one of the [error codes](errors.md)), `message` and `details`, all strings. `details` is the"
        " traceback, or empty.",
        "there is no error",
    ),
    "startTime": Field("integer", "ms since 1970", "When the task began."),
    "endTime": Field("integer", "ms since 1970", "When the task ended."),
    "durationMs": Field("number", "ms", "How long the task took, by a monotonic clock."),
    "peakMemBytes": Field(
        "integer",
        "bytes",
        "The most memory in use at one time, by all processes together; shared memory counts once.",
        "it was not measured: the code could not be loaded, or another wrapper ran it (`hkrunner worker`)",
    ),
    "memLimitBytes": Field("integer", "bytes", "The memory limit of the task.", "there was no limit"),
    "cpuSeconds": Field("number", "s", "CPU time of all processes of the task.", "`peakMemBytes` is null"),
    "protection": Field(
        "object",
        "",
        "How the limits were enforced: `line` is a sentence, `level` is `cgroup` or `sampling`, and"
        " `signals_confined` says whether the algorithm could not send signals to other processes. `sandbox`"
        " is `basic`, or the level of `--sandbox strict` that held (`full`, `ns`, `landlock`); `refused` has"
        " a sentence for each stronger level that this machine refused, `not_prevented` one for each thing"
        " that this level does not prevent on this kernel.",
        "no process was started for the task",
    ),
    "metricsDir": Field(
        "string", "", "Absolute path of the folder of the task's event files.", "`--no-state` was given"
    ),
    "logs": Field(
        "object",
        "",
        "`stdout` and `stderr`: the paths of the files with the task's output. When hkrunner serves a worker,"
        " they exist only if something was printed.",
        "`--no-state` was given",
    ),
    "output": Field(
        "any",
        "",
        "What start() returned. Only `--json` has this field.",
        "the task has no result, or returned None",
    ),
}


@dataclass(frozen=True)
class Happening:
    """An event of `--output jsonl`: when it comes, and its fields beside event, time and taskId."""

    when: str
    fields: str


EVENTS: Mapping[str, Happening] = {
    "loaded": Happening("a process has loaded the code", "`entry`, `methods`, `python`"),
    "connected": Happening("hkrunner has connected to the worker", "`url`, `encoding`"),
    "initialized": Happening("a task has begun, init() has returned", "`jobId`, `nodeName`, `pipelineName`"),
    "started": Happening("start() is called", ""),
    "submitted": Happening("with `--on`: the cluster has taken the job", "`jobId`, `pipelineName`, `tasks`"),
    "progress": Happening(
        "the algorithm has called `api.progress(…)`; with `--on`, the job's own progress, without `taskId`",
        "`progress` (0 to 100), `details`",
    ),
    "sample": Happening(
        "about once a second: the resource usage",
        "`cpuCores` (cores), `memoryBytes` (bytes), `processes`",
    ),
    "log": Happening("the algorithm has printed a line", "`stream` (`stdout` or `stderr`), `line`"),
    "warning": Happening("hkrunner has printed a message that `--quiet` does not hide", "`text`"),
    "killed": Happening(
        "hkrunner has killed the algorithm; the event `errorMessage` follows",
        "`code`, `used` and `allowed` in the limit's unit, `processes` as `[pid, name, bytes]`",
    ),
    "done": Happening("the task has a result", "all fields of the result object"),
    "errorMessage": Happening("the task has failed", "all fields of the result object"),
    "stopped": Happening("the task was stopped", "all fields of the result object"),
    "messages": Happening(
        "with `--pipeline FILE`: every 10 s, for each node, the messages so far",
        "`nodeName`, `received`, `waiting`, `dropped`, `sent`",
    ),
    "node": Happening(
        "with `--pipeline FILE`: at the end, for each node", "those of `--json`, without `output`"
    ),
    "board": Happening("the board of `--board` is ready to be opened", "`id`, `url`"),
}
